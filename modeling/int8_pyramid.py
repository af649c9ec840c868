"""int8 trunks whose last 3×3 convolutions, the FPN's and the RPN's, are Winograd's: half of all multiplications.

    a backbone in int8      pixels ─▶ OpenVINO: backbone, FPN's 1×1 convolutions, sums ─▶ levels, uint8 ─┐
    a backbone in float     pixels ─▶ torch:    the same ─▶ levels ──────────────────────────────────────┤
                                                                  3×3 conv ─▶ features ─▶ 3×3 conv ─▶ logits, deltas

For the CPUs of `winograd_int8.py`; what follows the levels is torch's, in the precision of the heads. Which backbones
stay in float, `maskserve.training.quantize` says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import torch
from detectron2.layers import Conv2d
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.backbone import FPN
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from torch import Tensor

from maskserve.modeling import residual
from maskserve.modeling.fused import from_levels
from maskserve.modeling.mobilenetv2 import MobileNetV2
from maskserve.modeling.openvino_trunk import LEVEL, OpenVinoGraph
from maskserve.modeling.trunk import Affine, TorchTrunk, TrunkOutput
from maskserve.modeling.winograd_int8 import Int8Conv, conv_suits_int8

LEAST = 1_800_000_000
"""Multiplications that the largest level's convolution is defined by, for a square photo, from which it was faster."""
LEAST_SIDE = 544
"""Short side of photos, px, from which a backbone in float was faster on torch than on OpenVINO."""


class Int8Pyramid:
    """A `maskserve.modeling.trunk.Trunk` of a model that suits, with its backbone in int8.

    Args:
        graph: with the levels as its outputs.
        model: of the same weights, in float32 and prepared (`maskserve.modeling.fold`). Its FPN and RPN head are
            changed in place.
        dtype: of the features, and of what is not int8.
    """

    scales: Mapping[str, Affine] = MappingProxyType({})
    on_openvino = True

    def __init__(self, graph: OpenVinoGraph, model: GeneralizedRCNN, dtype: torch.dtype) -> None:
        self.graph, self._fpn, self._rpn = graph, model.backbone, model.proposal_generator
        outputs = _outputs(self._fpn)
        self._levels = [LEVEL + name for name in outputs]
        self._strides = [self._fpn._out_feature_strides[name] for name in outputs]
        _round_last(model, [graph.scales[level] for level in self._levels])
        self._rpn.rpn_head.to(dtype)
        self._fpn.bottom_up = None  # or its weights would be prepared, and stay in memory
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


def float_backbone(model: GeneralizedRCNN, dtype: torch.dtype) -> TorchTrunk:
    """A `maskserve.modeling.trunk.Trunk` of a model that suits, whose backbone stays in float: without OpenVINO.

    Args, but for the graph: see `Int8Pyramid`.
    """
    _round_last(model, [None] * len(model.backbone.output_convs))
    return TorchTrunk(model).to(dtype)


def _round_last(model: GeneralizedRCNN, reads: Sequence[Affine | None]) -> None:
    """The last convolutions become int8's; `reads`: see `Int8Conv`, of the FPN's."""
    fpn, head = model.backbone, model.proposal_generator.rpn_head
    fpn.output_convs = [Int8Conv(conv, read) for conv, read in zip(fpn.output_convs, reads, strict=True)]
    head.conv = Int8Conv(head.conv)


def suits(model: GeneralizedRCNN) -> bool:
    """Whether a model's last convolutions can be done so here."""
    fpn, head = model.backbone, model.proposal_generator.rpn_head
    plain = type(fpn) is FPN and type(head) is StandardRPNHead
    return plain and all(map(conv_suits_int8, (*_outputs(fpn).values(), head.conv)))


def goes_without_openvino(model: GeneralizedRCNN, short_side: int) -> bool:
    """Whether the backbone of a model that suits stays in float, runs row by row, and photos are large enough for it.

    Args:
        short_side: of the photos as the network sees them, px.
    """
    network = model.backbone.bottom_up
    return isinstance(network, MobileNetV2) and residual.suits(network.res2[0]) and short_side >= LEAST_SIDE


def pays(model: GeneralizedRCNN, levels: Collection[str], short_side: int) -> bool:
    """Whether an `Int8Pyramid` of a model that suits is faster than all of it on OpenVINO.

    Args:
        levels: names of its graph's outputs.
        short_side: see `goes_without_openvino`.
    """
    fpn = model.backbone
    outputs = _outputs(fpn)
    first, conv = [*outputs.items()][-1]
    large = (short_side // fpn._out_feature_strides[first]) ** 2 * conv.weight.numel() >= LEAST
    read = fpn.top_block is None or fpn.top_block.in_feature in outputs
    return large and read and all(LEVEL + name in levels for name in outputs)


def _outputs(fpn: FPN) -> dict[str, Conv2d]:
    """The last convolutions by the names of their features, p2 last."""
    names = fpn._out_features[: len(fpn.output_convs)]
    return dict(zip(reversed(names), fpn.output_convs, strict=True))
