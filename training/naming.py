"""Tensor names of torchvision's backbones ─▶ names of a Detectron2 model with the same backbone.

torchvision ResNet       conv1, bn1, layer1.0.conv1, layer1.0.bn1, layer1.0.downsample.{0,1}
Detectron2               stem.conv1, stem.conv1.norm, res2.0.conv1, res2.0.conv1.norm, res2.0.shortcut, ….norm
torchvision MobileNetV2  features.0.{0,1}, features.3.conv.{0.{0,1},1.{0,1},2,3}
ours                     stem, stem.norm, res2.1.{expand,depthwise,project}, ….norm
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from maskserve.modeling.mobilenetv2 import TABLE, rows_by_stride

PREFIX = "backbone.bottom_up."


def is_torchvision(state: Mapping[str, Tensor], backbone: str) -> bool:
    """Whether these are torchvision's names for that backbone."""
    mark = "layer1.0.conv1.weight" if backbone == "resnet50" else "features.0.0.weight"
    return mark in state


def from_torchvision(state: Mapping[str, Tensor], backbone: str) -> dict[str, Tensor]:
    """The same tensors under Detectron2's names; the classifier and what has no place there are left out."""
    rename = _resnet_name if backbone == "resnet50" else _mobilenet_name
    renamed = {rename(name): tensor for name, tensor in state.items()}
    return {PREFIX + name: tensor for name, tensor in renamed.items() if name is not None}


def _resnet_name(name: str) -> str | None:
    if name.startswith("fc."):
        return None
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}.", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)


def _mobilenet_name(name: str) -> str | None:
    match = re.fullmatch(r"features\.(\d+)\.(.+)", name)
    if match is None or int(match[1]) > sum(row.repeats for row in TABLE):
        return None  # the classifier and the last 1×1 convolution
    index, rest = int(match[1]), match[2]
    if index == 0:
        return "stem." + re.sub(r"^0\.|^1\.", lambda part: "" if part[0] == "0." else "norm.", rest)
    stage, expansion = list(_blocks())[index - 1]
    layers = ["expand", "depthwise"] if expansion > 1 else ["depthwise"]
    parts = re.fullmatch(r"conv\.(\d+)\.(?:([01])\.)?(\w+)", rest)
    if parts is None:
        return None
    layer, inner, tensor = int(parts[1]), parts[2], parts[3]
    if inner is not None:  # convolution, batch norm, ReLU6 in one group
        return f"{stage}.{layers[layer]}.{'norm.' if inner == '1' else ''}{tensor}"
    return f"{stage}.project.{'norm.' if layer > len(layers) else ''}{tensor}"


def _blocks() -> Iterator[tuple[str, int]]:
    """("res2.0", expansion) of every block, in torchvision's order."""
    for stage, rows in rows_by_stride():
        expansions = [row.expansion for row in rows for _ in range(row.repeats)]
        for index, expansion in enumerate(expansions):
            yield f"{stage}.{index}", expansion
