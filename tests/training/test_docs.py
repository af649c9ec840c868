"""docs/training.md names what there is to choose."""

from pathlib import Path

from detectron2.config import CfgNode, get_cfg

from maskserve.modeling.config import new_cfg
from maskserve.training.presets import ARMS, PRESETS


def own_keys(ours: CfgNode, theirs: CfgNode, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in ours.items():
        known = theirs.get(key, {})
        if isinstance(value, CfgNode):
            keys += own_keys(value, known if isinstance(known, CfgNode) else CfgNode(), f"{prefix}{key}.")
        elif key not in theirs:
            keys.append(prefix + key)
    return keys


def test_every_key_of_ours_arm_and_preset_is_documented(repo_root: Path):
    text = (repo_root / "docs" / "training.md").read_text()
    keys = own_keys(new_cfg(), get_cfg())
    assert len(keys) > 5
    for name in [*ARMS, *PRESETS, *(key.rpartition(".")[2] for key in keys)]:
        assert name in text, name
