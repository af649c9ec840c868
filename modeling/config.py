"""Detectron2's config with our own keys, and a loader whose errors a person can act on.

    new_cfg() ─▶ load_cfg(path) | merge_file(cfg, path) | merge_overrides(cfg, [KEY, VALUE, …])

A YAML file may name another as `_BASE_`; files are read with the safe loader only.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml
from detectron2.config import CfgNode, get_cfg

from maskserve.modeling.network import settle
from maskserve.protos.errors import ConfigError

PAIR = 2  # KEY and VALUE


def new_cfg() -> CfgNode:
    """Detectron2's defaults plus our keys; nothing in it is tied to a machine (`MODEL.DEVICE` is the CPU)."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"

    cfg.MODEL.MOBILENETV2 = CfgNode()
    cfg.MODEL.MOBILENETV2.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.MOBILENETV2.WIDTH_MULT = 1.0
    cfg.MODEL.MOBILENETV2.NORM = "FrozenBN"  # "BN", "GN", "SyncBN", "FrozenBN"
    cfg.MODEL.MOBILENETV2.OUTPUT_STRIDE = 32  # 16: res5's blocks are dilated and end in res4

    cfg.MODEL.LITE = False  # depthwise-separable 3×3 convolutions in FPN, RPN and heads
    cfg.MODEL.LITE_NORM = "GN"  # of those; "BN", "SyncBN"

    cfg.INPUT.COLOR_JITTER = 0.0  # brightness, contrast and saturation change by up to this fraction
    cfg.INPUT.CACHE_IMAGES = False  # keep the training photos in memory, at the largest size that a step asks for
    cfg.INPUT.SCALE_JITTER = (1.0, 1.0)  # photos times a random factor of this range, cut to their training size
    cfg.INPUT.COPY_PASTE = 0.0  # how many photos get instances of another one pasted on, as a share

    cfg.MODEL.ANCHOR_GENERATOR.FIT = False  # set SIZES and ASPECT_RATIOS to what suits the training boxes
    cfg.MODEL.ROI_MASK_HEAD.LOSS_WEIGHT = 1.0  # of loss_mask in the sum; Detectron2 has keys for the other losses

    cfg.SOLVER.OPTIMIZER = "SGD"  # "AdamW"
    cfg.SOLVER.BACKBONE_LR_FACTOR = 1.0  # of BASE_LR, for the bottom-up network
    cfg.SOLVER.EMA_DECAY = 0.0  # validate and keep an average of the weights that forgets at this rate; 0: the last
    cfg.SOLVER.ACCUMULATE = 1  # forwards whose gradients make one step, each with IMS_PER_BATCH / ACCUMULATE photos
    cfg.SOLVER.PATIENCE = 0  # validations in a row without a better mask AP that end the training; 0: none do
    return cfg


def load_cfg(path: Path | str) -> CfgNode:
    """A config file over the defaults, settled.

    Raises:
        ConfigError: the file is missing, is no YAML, has a key or value that the defaults do not know, or asks for a
            network that cannot be.
    """
    cfg = new_cfg()
    merge_file(cfg, path)
    settle(cfg)
    return cfg


def merge_file(cfg: CfgNode, path: Path | str) -> None:
    """Merge a YAML file (and its `_BASE_` files) into `cfg`; ConfigError names the file and the key."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    try:
        cfg.merge_from_file(str(path), allow_unsafe=False)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not a YAML config that can be read safely: {error}") from error
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {_reason(error)}") from error


def merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Merge `KEY VALUE` pairs from a command line into `cfg`; ConfigError names the pair at fault."""
    if len(overrides) % PAIR:
        raise ConfigError(f"config overrides come as KEY VALUE pairs; {overrides[-1]!r} has no value")
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        try:
            cfg.merge_from_list([key, _fractional(cfg, key, value)])
        except (AssertionError, KeyError):
            raise ConfigError(f"config override {key} {value}: no such key {key!r}{_similar(cfg, key)}") from None
        except (ValueError, TypeError, SyntaxError) as error:
            raise ConfigError(f"config override {key} {value}: {_reason(error)}") from error


def _fractional(cfg: CfgNode, key: str, value: str) -> str:
    """A whole number for a key that holds a fraction (`SOLVER.BASE_LR 1`) with its point, which yacs insists on."""
    place = cfg
    for name in key.split("."):
        place = place.get(name) if isinstance(place, CfgNode) else None
    return f"{value}.0" if isinstance(place, float) and value.lstrip("-").isdecimal() else value


def _similar(cfg: CfgNode, key: str) -> str:
    """The keys most like a mistyped one, as a hint."""
    found = get_close_matches(key.upper(), _names(cfg), n=2, cutoff=0.7)
    return f"; did you mean {' or '.join(found)}?" if found else "; config.yaml of a run folder lists all keys"


def _names(cfg: CfgNode, prefix: str = "") -> list[str]:
    names: list[str] = []
    for key, value in cfg.items():
        names += _names(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else [prefix + key]
    return names


def _reason(error: Exception) -> str:
    return str(error.args[0]) if error.args else type(error).__name__
