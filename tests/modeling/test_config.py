"""Config files and overrides: what is wrong is named."""

from pathlib import Path

import pytest
import yaml

from maskserve.modeling.config import load_cfg, merge_overrides, new_cfg
from maskserve.protos.errors import ConfigError
from maskserve.training.presets import ARMS, CONFIGS


def test_a_dumped_config_loads_to_the_same_values(tmp_path: Path):
    cfg = load_cfg(CONFIGS / ARMS["mobilenetv2"].config)
    cfg.MODEL.MOBILENETV2.WIDTH_MULT = 0.5
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert yaml.safe_load(load_cfg(tmp_path / "config.yaml").dump()) == yaml.safe_load(cfg.dump())


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("MODEL: {NO_SUCH: 1}", "NO_SUCH"),
        ("SOLVER: {MAX_ITER: [1]}", "MAX_ITER"),
        ("MODEL: [", "YAML"),
        ("just text", "config.yaml"),
        ("MODEL: !!python/object/apply:os.system ['true']", "safely"),
    ],
)
def test_a_broken_config_file_is_refused_with_the_reason(tmp_path: Path, text: str, named: str):
    path = tmp_path / "config.yaml"
    path.write_text(f"VERSION: 2\n{text}" if ":" in text else text)
    with pytest.raises(ConfigError, match=named):
        load_cfg(path)


def test_a_missing_config_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"gone\.yaml: no such"):
        load_cfg(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("pairs", "named"),
    [
        (["SOLVER.BASE_RATE", "1"], "SOLVER.BASE_RATE"),
        (["MODEL.BASE_LR", "1"], r"did you mean SOLVER\.BASE_LR"),
        (["SOLVER.MAX_ITR", "1"], r"did you mean SOLVER\.MAX_ITER"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER many"),
        (["SOLVER.MAX_ITER"], "has no value"),
    ],
)
def test_an_override_that_does_not_fit_names_its_key(pairs: list[str], named: str):
    with pytest.raises(ConfigError, match=named):
        merge_overrides(new_cfg(), pairs)


def test_overrides_change_values_of_the_key_s_own_type():
    cfg = new_cfg()
    merge_overrides(cfg, ["SOLVER.BASE_LR", "0.5", "INPUT.MIN_SIZE_TRAIN", "(96,)"])
    assert cfg.SOLVER.BASE_LR == 0.5
    assert cfg.INPUT.MIN_SIZE_TRAIN == (96,)


@pytest.mark.parametrize(("whole", "value"), [("1", 1.0), ("0", 0.0), ("-2", -2.0)])
def test_a_fraction_may_be_written_as_a_whole_number(whole: str, value: float):
    cfg = new_cfg()
    merge_overrides(cfg, ["SOLVER.BASE_LR", whole])
    assert isinstance(cfg.SOLVER.BASE_LR, float)
    assert value == cfg.SOLVER.BASE_LR
