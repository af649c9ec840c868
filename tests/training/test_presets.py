"""Configs: layers in order, the same schedule for both arms, self-contained results."""

from pathlib import Path

import pytest
import yaml

from maskserve.cli import train as cli_train
from maskserve.modeling.config import load_cfg
from maskserve.protos.errors import ConfigError
from maskserve.training.presets import ARMS, CONFIGS, PRESETS, resolve_cfg

RECIPES = [path.stem for path in (CONFIGS / "init").glob("*.yaml")]


def resolve(backbone: str = "mobilenetv2", preset: str = "quick", recipe: str = "none", overrides: tuple = ()):
    return resolve_cfg(ARMS[backbone], preset=preset, recipe=recipe, class_count=2, seed=7, overrides=overrides)


@pytest.mark.parametrize("preset", PRESETS)
def test_both_arms_have_the_same_schedule_and_images(preset: str):
    one, other = (resolve(backbone, preset) for backbone in ARMS)
    assert one.SOLVER == other.SOLVER
    assert one.INPUT == other.INPUT
    assert one.SEED == other.SEED == 7


def test_the_command_line_offers_every_preset_and_arm():
    assert cli_train.PRESETS == PRESETS
    assert tuple(ARMS) == cli_train.BACKBONES


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_of_initial_weights_resolves_and_normalises_as_many_channels_as_it_reads(recipe: str):
    backbone = "mobilenetv2" if recipe.startswith("mobilenetv2") else "resnet50"
    cfg = resolve(backbone, "standard", recipe)
    assert len(cfg.MODEL.PIXEL_MEAN) == len(cfg.MODEL.PIXEL_STD) == 3
    assert cfg.INPUT.FORMAT in ("RGB", "BGR")


def test_the_resolved_config_needs_no_other_file(tmp_path: Path):
    cfg = resolve()
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert yaml.safe_load(load_cfg(tmp_path / "config.yaml").dump()) == yaml.safe_load(cfg.dump())


def test_the_command_line_wins():
    assert resolve(overrides=("SOLVER.BASE_LR", "0.125")).SOLVER.BASE_LR == 0.125


@pytest.mark.parametrize(
    "overrides",
    [
        ("SOLVER.ACCUMULATE", "3"),
        ("SOLVER.ACCUMULATE", "0"),
        ("SOLVER.PATIENCE", "-1"),
        ("DATALOADER.NUM_WORKERS", "-2"),
        ("SOLVER.OPTIMIZER", "Lion"),
        ("INPUT.FORMAT", "YUV"),
        ("SOLVER.MAX_ITER", "0"),
        ("SOLVER.IMS_PER_BATCH", "0"),
        ("SOLVER.EMA_DECAY", "1.0"),
        ("SOLVER.EMA_DECAY", "-0.1"),
        ("MODEL.ROI_MASK_HEAD.LOSS_WEIGHT", "-1"),
        ("INPUT.COPY_PASTE", "1.5"),
        ("INPUT.SCALE_JITTER", "(1.5,0.5)"),
        ("INPUT.SCALE_JITTER", "(0,1)"),
        ("INPUT.SCALE_JITTER", "(1,)"),
    ],
)
def test_a_value_that_cannot_work_is_refused_before_training(overrides: tuple[str, str]):
    with pytest.raises(ConfigError, match=overrides[0].rpartition(".")[2]):
        resolve(overrides=overrides)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="quick or standard"):
        resolve(preset="slow")
