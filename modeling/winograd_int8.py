"""Winograd's 3×3 convolution with its products in int8: on a CPU with VNNI up to a third faster than in bfloat16.

    transformed, float32 ─▶ each place of a tile in units of its own ─▶ uint8 ─▶ products ─▶ × units ─▶ back

A place's numbers, of all channels, are rounded together, in 127ths of the largest: no photo has to show their range
before, as for what is rounded before a convolution, and a dark part of a photo keeps its digits. Weights are rounded
for each place and channel of the output.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn, ops

from maskserve.modeling import compiled
from maskserve.modeling.device import as_numpy, multiplies_int8
from maskserve.modeling.int8_linear import MIDDLE, in_units
from maskserve.modeling.packed import PackedWeights
from maskserve.modeling.trunk import Affine
from maskserve.modeling.winograd import WAYS, Call, Room, Source, Winograd, Work, few_threads, suits
from maskserve.modeling.winograd_calls import convolve


class Int8Conv(nn.Module):
    """A convolution of `conv_suits_int8`, which on maps that are large enough multiplies in int8, else as it is.

    Args:
        reads: what the input stands for, where it is uint8.
    """

    def __init__(self, conv: Conv2d, reads: Affine | None = None) -> None:
        super().__init__()
        self.conv, self._reads = conv, reads or Affine()
        self.winograd, self.activation = Int8Winograd(conv, self._reads), conv.activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), uint8 or of the convolution's dtype ─▶ (B, C', H, W) of that dtype, channels last."""
        if self.winograd.pays(x.shape):
            return convolve([Call(self.winograd, x, self.activation is not None)])[0]
        return self.conv(x if x.is_floating_point() else self._reads.values(x).to(self.conv.weight.dtype))


class Int8Winograd(Winograd):
    """Rounds the weights that the convolution has when this is made, which may be more exact than those it has later.

    Args:
        reads: see `Int8Conv`.
    """

    def __init__(self, conv: Conv2d, reads: Affine) -> None:
        super().__init__(conv, WAYS[torch.uint8])
        self._zero_and_scale = (reads.zero_point, reads.scale)
        filters = self._filters()
        units, whole = in_units(filters)
        self.whole_weight = whole[:, :, None, None].to(torch.int8)
        self.units = units.float()
        self._middle = (-MIDDLE * whole.sum(1) * units).float()
        self._zeros = torch.zeros(len(units), dtype=torch.int32)
        self._packed = PackedWeights(self, _packed)

    def room(self, work: Work) -> Room:
        units = np.empty(work.step * self.groups, np.float32)
        return Room(self._empty(work.step, torch.uint8), units, self._answers(work))

    def _multiplied(self, source: Source, first: int, last: int, room: Room, weights: Tensor) -> Tensor:
        numbers = room.numbers
        compiled.winograd_kernels().take_apart_rounded(
            *source, *self._zero_and_scale, first, last, as_numpy(numbers.permute(0, 2, 3, 1)), room.units
        )
        return ops.onednn.qconv2d_pointwise(
            *(numbers, 1.0, 0, weights, self.units, self._zeros, self._middle),
            *(self.stride, self.padding, self.dilation, self.groups, 1.0, 0, self._conv.weight.dtype, "none", [], ""),
        )


def _packed(conv: Int8Winograd, size: Sequence[int]) -> Tensor:
    return ops.onednn.qconv_prepack(
        *(conv.whole_weight, conv.units, 1.0, 0, conv.stride, conv.padding, conv.dilation, conv.groups, size)
    )


def conv_suits_int8(conv: Conv2d) -> bool:
    """Whether it was seen to be faster so."""
    known = all(hasattr(ops.onednn, name) for name in ("qconv_prepack", "qconv2d_pointwise"))
    return (
        multiplies_int8() and known and isinstance(conv, Conv2d) and conv.norm is None and suits(conv) and few_threads()
    )
