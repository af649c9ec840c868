"""Which config an arm is trained with: base ─▶ arm ─▶ preset ─▶ initial weights ─▶ data ─▶ command line.

Each layer is a small YAML file of `training/configs/` and later ones win (`presets/quick-resnet50-coco.yaml` is for
that preset with those weights). The result is self-contained: a run folder's
`config.yaml` rebuilds the model without any of these files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from maskserve.modeling.config import merge_file, merge_overrides, new_cfg
from maskserve.protos import wire
from maskserve.protos.errors import ConfigError

CONFIGS = Path(__file__).parent / "configs"
PRESETS = ("quick", "standard")


@dataclass(frozen=True)
class Arm:
    """One of the two networks that are compared."""

    backbone: str
    """The name in commands and answers."""
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
    _check(cfg)
    cfg.freeze()
    return cfg


def _check(cfg: CfgNode) -> None:
    if cfg.SOLVER.OPTIMIZER not in ("SGD", "AdamW"):
        raise ConfigError(f"SOLVER.OPTIMIZER {cfg.SOLVER.OPTIMIZER!r}: choose SGD or AdamW")
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ConfigError(f"INPUT.FORMAT {cfg.INPUT.FORMAT!r}: choose RGB or BGR")
    for key, value in (("MAX_ITER", cfg.SOLVER.MAX_ITER), ("IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH)):
        if value < 1:
            raise ConfigError(f"SOLVER.{key} {value}: must be at least 1")
    _check_loop(cfg)


def _check_loop(cfg: CfgNode) -> None:
    photos, parts = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE
    if parts < 1 or photos % parts:
        raise ConfigError(f"SOLVER.ACCUMULATE {parts}: must divide SOLVER.IMS_PER_BATCH, which is {photos}")
    if cfg.SOLVER.PATIENCE < 0:
        raise ConfigError(f"SOLVER.PATIENCE {cfg.SOLVER.PATIENCE}: must be 0 (never stop early) or more")
    if cfg.DATALOADER.NUM_WORKERS < -1:
        raise ConfigError(f"DATALOADER.NUM_WORKERS {cfg.DATALOADER.NUM_WORKERS}: choose -1 (automatic), 0 or more")
