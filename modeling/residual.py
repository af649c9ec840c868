"""An inverted residual on a CPU as one call, row by row: what it expands never leaves the core's cache.

    block ─▶ weights in panels, once        x, panels ─▶ a part of the rows on each thread ─▶ the answer

The hidden maps of a MobileNetV2 at 800 px are 93 MB in float32; as three convolutions, they are written to memory and
read from there twice. The stem is the first block's expansion here (`maskserve.modeling.fused_cpu`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.nn import functional as F

from maskserve.modeling import compiled
from maskserve.modeling.device import as_numpy, has_vectors
from maskserve.modeling.mobilenetv2 import InvertedResidual
from maskserve.modeling.process import run_at_once
from maskserve.modeling.winograd import few_threads

LEAST_ROWS = 3
"""Of a thread, since two hidden rows at each seam are calculated twice."""


class Rows:
    """Of one block that suits, and no longer learns: of the weights that it has when this is made."""

    def __init__(self, block: InvertedResidual) -> None:
        expand, depthwise, project = block.expand, block.depthwise, block.project
        taps = depthwise.weight[:, 0].permute(1, 2, 0).float().contiguous().view(-1).numpy()
        self._layers = (_layer(expand), (taps, _bias(depthwise)), _layer(project))
        self._is_stem = expand.kernel_size != (1, 1)
        self._stride: int = depthwise.stride[0]
        self._adds, self._channels = block.has_shortcut, project.out_channels

    def pays(self, size: torch.Size) -> bool:
        """Whether it is faster for an input of that size, (B, C, H, W)."""
        rows, columns = self._sides(size)
        many = rows >= LEAST_ROWS * torch.get_num_threads() and columns >= compiled.residual_kernels().PIXELS
        return many and few_threads()

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) ─▶ (B, C', h, w), channels last."""
        pixels, parts = x.permute(0, 2, 3, 1).contiguous(), torch.get_num_threads()
        out = torch.empty(len(x), *self._sides(x.shape), self._channels, dtype=x.dtype)
        work = (as_numpy(pixels.view(-1)), tuple(pixels.shape), self._is_stem, *self._layers, self._stride, self._adds)
        calls = [(*work, as_numpy(out.view(-1)), part, parts) for part in range(parts)]
        run_at_once(compiled.residual_kernels().residual, calls)
        return out.permute(0, 3, 1, 2)

    def _sides(self, size: torch.Size) -> tuple[int, int]:
        """(h, w) of the answer."""
        stride = self._stride * (2 if self._is_stem else 1)
        return -(-size[2] // stride), -(-size[3] // stride)


def suits(block: InvertedResidual) -> bool:
    """Whether it can be done so here."""
    convs: list[Any] = [block.expand, block.depthwise, block.project]
    expand, depthwise, project = convs
    first = _is(expand, 1) or (_is(expand, 3, stride=2) and expand.in_channels == 3)
    between = any(_is(depthwise, 3, stride=stride, groups=depthwise.in_channels) for stride in (1, 2))
    cuts = [isinstance(getattr(conv, "activation", None), nn.ReLU6) for conv in convs]
    known = first and between and _is(project, 1) and cuts == [True, True, False]
    lanes = compiled.NUMBERS_AT_ONCE
    wide = depthwise.in_channels % lanes == 0 and project.out_channels >= lanes
    return known and wide and has_vectors(depthwise.weight.dtype, "AVX512") and compiled.is_there()


def _is(conv: Any, side: int, *, stride: int = 1, groups: int = 1) -> bool:
    """A prepared convolution of that kernel, padded by its half."""
    if not isinstance(conv, Conv2d) or conv.norm is not None or conv.bias is None or conv.padding_mode != "zeros":
        return False
    asked = ((side, side), (stride, stride), (side // 2, side // 2), (1, 1), groups)
    return (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups) == asked


def _bias(conv: Conv2d) -> np.ndarray:
    shift: np.ndarray = conv.bias.float().numpy()
    return shift


def _layer(conv: Conv2d) -> tuple[np.ndarray, np.ndarray]:
    """Weights in panels (`residual_kernels.py`), in their dtype, and the bias, float32."""
    kernels = compiled.residual_kernels()
    rows = conv.weight.permute(2, 3, 1, 0).flatten(1, 2)  # lines, numbers, channels
    unit = 4 // rows.itemsize
    rows = F.pad(rows, (0, 0, 0, rows.shape[1] % unit)).reshape(-1, unit, conv.out_channels)
    panels = [kernels.panel(number, conv.out_channels) for number in range(-(-conv.out_channels // kernels.WIDTH))]
    firsts = torch.tensor([[first, first + beside] for first, beside in panels])
    channels = firsts[..., None] + torch.arange(compiled.NUMBERS_AT_ONCE)
    found = rows[..., channels.flatten(1)].permute(2, 0, 3, 1)  # panels, rows, channels, of a pair
    return as_numpy(found.contiguous().view(-1)), _bias(conv)
