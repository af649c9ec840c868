"""Which config an arm is trained with: base ─▶ arm ─▶ preset ─▶ initial weights ─▶ data ─▶ command line.

Each layer is a small YAML file of `training/configs/` and later ones win (`presets/quick-resnet50-coco.yaml` is for
that preset with those weights). The result is self-contained: a run folder's
`config.yaml` rebuilds the model without any of these files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from maskserve.modeling.config import merge_file, merge_overrides, new_cfg
from maskserve.modeling.network import settle
from maskserve.protos import wire
from maskserve.protos.errors import ConfigError

CONFIGS = Path(__file__).parent / "configs"
PRESETS = ("quick", "standard", "best")

RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("SOLVER.OPTIMIZER", lambda name: name in ("SGD", "AdamW"), "choose SGD or AdamW"),
    ("SOLVER.MAX_ITER", lambda steps: steps >= 1, "must be at least 1"),
    ("SOLVER.IMS_PER_BATCH", lambda photos: photos >= 1, "must be at least 1"),
    ("SOLVER.ACCUMULATE", lambda parts: parts >= 1, "must be at least 1"),
    ("SOLVER.PATIENCE", lambda count: count >= 0, "choose 0 (never stop early) or a number of validations"),
    ("DATALOADER.NUM_WORKERS", lambda count: count >= -1, "choose -1 (as many as help), 0 or more"),
    ("SOLVER.EMA_DECAY", lambda share: 0 <= share < 1, "choose 0 (off) or a share below 1, such as 0.999"),
    ("INPUT.FORMAT", lambda order: order in ("RGB", "BGR"), "choose RGB or BGR"),
    ("INPUT.COPY_PASTE", lambda share: 0 <= share <= 1, "choose 0 (off) to 1 (every photo)"),
    ("INPUT.SCALE_JITTER", lambda span: _is_span(span), "choose two factors, smaller one first, such as (0.5, 1.5)"),
    ("MODEL.ROI_MASK_HEAD.LOSS_WEIGHT", lambda weight: weight >= 0, "must not be negative"),
)
"""Key, whether a value can work, what to do when it cannot."""


@dataclass(frozen=True)
class Arm:
    """One of the two networks that are compared."""

    backbone: str
    """The name in commands, whatever the depth or width."""
    config: str
    model: str
    """The name of its run folder, its archive and of the model in TorchServe."""


ARMS = {
    arm.backbone: arm
    for arm in (
        Arm("resnet50", "mask_rcnn_R_50_FPN.yaml", wire.MODEL_R50),
        Arm("mobilenetv2", "mask_rcnn_MNV2_FPN.yaml", wire.MODEL_MNV2),
    )
}


def resolve_cfg(
    arm: Arm,
    *,
    preset: str,
    recipe: str,
    class_count: int,
    seed: int,
    recipe_values: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> CfgNode:
    """The frozen config of one training.

    Args:
        recipe: the file of `configs/init/` (without .yaml) that fits the initial weights: colour order,
            normalisation, norm layers, freezing.
        recipe_values: further keys that the initial weights ask for, {key: value}.
        overrides: KEY VALUE pairs of the command line.

    Raises:
        ConfigError: an unknown preset, key or value.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; choose {' or '.join(PRESETS)}")
    cfg = new_cfg()
    pair = f"presets/{preset}-{recipe}.yaml"
    for name in (arm.config, f"presets/{preset}.yaml", f"init/{recipe}.yaml", pair):
        if name != pair or (CONFIGS / pair).is_file():
            merge_file(cfg, CONFIGS / name)
    for key, value in (recipe_values or {}).items():
        cfg.merge_from_list([key, value])
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = class_count
    cfg.SEED = seed
    merge_overrides(cfg, overrides)
    settle(cfg)
    _check(cfg)
    cfg.freeze()
    return cfg


def _check(cfg: CfgNode) -> None:
    for key, fits, advice in RULES:
        value = reduce(getattr, key.split("."), cfg)
        if not fits(value):
            raise ConfigError(f"{key} {value!r}: {advice}")
    photos, parts = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE
    if photos % parts:
        raise ConfigError(f"SOLVER.ACCUMULATE {parts}: must divide SOLVER.IMS_PER_BATCH, which is {photos}")


def _is_span(factors: Sequence[Any]) -> bool:
    numbers = len(factors) == 2 and all(isinstance(factor, int | float) for factor in factors)
    return numbers and 0 < factors[0] <= factors[1]
