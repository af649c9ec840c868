"""An int8 trunk whose last 3×3 convolutions, the FPN's and the RPN's, are Winograd's: half of all multiplications.

    pixels ─▶ OpenVINO: backbone, FPN's 1×1 convolutions, sums ─▶ levels, uint8 ─▶ 3×3 conv ─▶ features
                                                                        features ─▶ 3×3 conv ─▶ logits, deltas

For the CPUs of `winograd_int8.py`; what follows the levels is torch's, in the precision of the heads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import torch
from detectron2.layers import Conv2d
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.backbone import FPN
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from torch import Tensor

from maskserve.modeling.fused import from_levels
from maskserve.modeling.openvino_trunk import LEVEL, OpenVinoGraph
from maskserve.modeling.trunk import Affine, TrunkOutput
from maskserve.modeling.winograd_int8 import Int8Conv, suits_int8

LEAST = 1_800_000_000
"""Multiplications that the largest level's convolution is defined by, for a square photo, from which it was faster."""


class Int8Pyramid:
    """A `maskserve.modeling.trunk.Trunk` of a model that suits.

    Args:
        graph: with the levels as its outputs.
        model: of the same weights, in float32 and prepared (`maskserve.modeling.fold`). Its FPN and RPN head are
            changed in place.
        dtype: of the features, and of what is not int8.
    """

    scales: Mapping[str, Affine] = MappingProxyType({})

    def __init__(self, graph: OpenVinoGraph, model: GeneralizedRCNN, dtype: torch.dtype) -> None:
        self.graph, self._fpn, self._rpn = graph, model.backbone, model.proposal_generator
        outputs = _outputs(self._fpn)
        self._levels = [LEVEL + name for name in outputs]
        self._strides = [self._fpn._out_feature_strides[name] for name in outputs]
        convs = zip(self._fpn.output_convs, self._levels, strict=True)
        self._fpn.output_convs = [Int8Conv(conv, graph.scales[level]) for conv, level in convs]
        self._rpn.rpn_head.conv = Int8Conv(self._rpn.rpn_head.conv)
        self._rpn.rpn_head.to(dtype)
        self._fpn.to(dtype)

    def __call__(self, pixels: Tensor, filled: tuple[int, int] | None = None) -> TrunkOutput:
        """See `maskserve.modeling.trunk.Trunk`."""
        found = self.graph(pixels)
        height, width = filled or pixels.shape[2:]
        sizes = [(height // stride, width // stride) for stride in self._strides]
        levels = [found[name][:, :, :rows, :columns] for name, (rows, columns) in zip(self._levels, sizes, strict=True)]
        features = from_levels(self._fpn, levels, {})
        logits, deltas = self._rpn.rpn_head([features[name] for name in self._rpn.in_features])
        return TrunkOutput(features, logits, deltas)


def suits(model: GeneralizedRCNN, levels: Collection[str], short_side: int) -> bool:
    """Whether a model's last convolutions can be done so here, and photos are large enough for it to be faster.

    Args:
        levels: names of its graph's outputs.
        short_side: of the photos as the network sees them, px.
    """
    fpn, head = model.backbone, model.proposal_generator.rpn_head
    if type(fpn) is not FPN or type(head) is not StandardRPNHead:
        return False
    outputs = _outputs(fpn)
    if not all(map(suits_int8, (*outputs.values(), head.conv))):
        return False
    first, conv = [*outputs.items()][-1]
    large = (short_side // fpn._out_feature_strides[first]) ** 2 * conv.weight.numel() >= LEAST
    read = fpn.top_block is None or fpn.top_block.in_feature in outputs
    return large and read and all(LEVEL + name in levels for name in outputs)


def _outputs(fpn: FPN) -> dict[str, Conv2d]:
    """The last convolutions by the names of their features, p2 last."""
    names = fpn._out_features[: len(fpn.output_convs)]
    return dict(zip(reversed(names), fpn.output_convs, strict=True))
