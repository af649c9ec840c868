"""A 3×3 convolution with fewer multiplications, on a CPU: Winograd's, as Lavin and Gray have it ("Fast Algorithms for
Convolutional Neural Networks", 2016).

    some tiles of x ─▶ transformed ─▶ a matrix product for each of their n² places ─▶ transformed back, + bias, ReLU

    float32     tiles of 4 × 4 px of the output: 2.25 multiplications instead of 9 for a pixel and two channels
    bfloat16    2 × 2 px: 4; the transforms of larger tiles would lose more than its eight bits have

Transforms are numba's (`winograd_kernels.py`), the products oneDNN's, as a convolution with a group for each place.
Each thread takes some tiles all the way, so that what lies between the arrows stays in its core's cache.

A layer's rounding error triples: in float32 6e-7 of what it answers become 2e-6, in bfloat16 1.7e-3 become 5e-3.

Shape shorthand: B images, C, C' channels, H, W px, n side of a tile with what its pixels see around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from detectron2.layers import Conv2d
from torch import Tensor, ops

from maskserve.modeling import compiled
from maskserve.modeling.device import as_numpy
from maskserve.modeling.packed import PackedWeights
from maskserve.modeling.process import run_at_once

LEAST_CHANNELS = 64
MOST_THREADS = 8
"""Python hands out the tiles, some 60 µs for 0.4 ms or more of a thread's work: so not to many threads."""
STRIP_BYTES = 1_700_000
"""Of transformed tiles that a thread works on at a time, but no fewer than `LEAST_IN_STRIP`: it reads all weights."""
LEAST_IN_STRIP = 128
_SMALLEST_STRIP = 16
_STRIP_COSTS = 12_000_000
"""What a strip takes beside the work on its tiles, in multiplications."""
_CHANNELS_AT_ONCE = 16
"""`LANES` of the kernels, which are loaded when they are needed."""


class Way(NamedTuple):
    """How it is done in one dtype."""

    filters: tuple[tuple[float, float, float], ...]
    """G, (n, 3), which belongs to the transforms `before` and `after` of the kernels."""
    least: int
    """Multiplications of a map, from which it was seen to be faster than the definition."""


WAYS = {
    torch.float32: Way(
        (
            (1 / 4, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
        12_000_000,
    ),
    torch.bfloat16: Way(((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)), 200_000_000),
}


def suits(conv: Conv2d) -> bool:
    """Whether a convolution on this CPU can be done so, and was seen to be faster."""
    plain = conv.kernel_size == (3, 3) and conv.groups == 1 and conv.padding_mode == "zeros"
    keeps_size = conv.stride == conv.padding == conv.dilation == (1, 1)
    channels = (conv.in_channels, conv.out_channels)
    wide = all(count >= LEAST_CHANNELS and count % _CHANNELS_AT_ONCE == 0 for count in channels)
    return plain and keeps_size and wide and _has_vectors(conv.weight.dtype) and compiled.is_there()


class Winograd:
    """Of one convolution that suits, and no longer learns."""

    padding, stride, dilation = (0, 0), (1, 1), (1, 1)

    def __init__(self, conv: Conv2d) -> None:
        self._conv = conv
        self._way = WAYS[conv.weight.dtype]
        self._side = len(self._way.filters)
        self.groups = self._side**2
        self._of_tile = self.groups * conv.in_channels * conv.out_channels
        self._packed = PackedWeights(self)
        shift = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.float()
        self._bias: np.ndarray = shift.numpy()

    @property
    def weight(self) -> Tensor:
        """(n² · C', C, 1, 1) of the products. Calculated when it is asked for: what is packed of it is kept."""
        filters = torch.tensor(self._way.filters, dtype=torch.float64)
        places = self._conv.weight.permute(2, 3, 0, 1).double().reshape(9, -1)
        transformed = torch.kron(filters, filters) @ places  # G w Gᵀ
        return transformed.reshape(-1, self._conv.in_channels, 1, 1).to(self._conv.weight.dtype)

    def pays(self, size: torch.Size) -> bool:
        """Whether it is faster for an input of that size, (B, C, H, W)."""
        return self._tiles(size) * self._of_tile >= self._way.least and torch.get_num_threads() <= MOST_THREADS

    def __call__(self, x: Tensor, *, relu: bool, onto: Tensor | None = None) -> Tensor:
        """What the convolution answers, with a ReLU if asked for: (B, C', H, W), channels last.

        Args:
            x: (B, C, H, W).
            onto: (B, C', H, W), to which that is added before the ReLU, in its memory.
        """
        pixels = x.permute(0, 2, 3, 1).contiguous()
        if onto is None:
            out = torch.empty(*pixels.shape[:3], self._conv.out_channels, dtype=x.dtype)
        else:
            out = onto.permute(0, 2, 3, 1).contiguous()
        finish = (self._bias, onto is not None, relu, as_numpy(out))
        count, threads = self._tiles(x.shape), torch.get_num_threads()
        step = self._strip(count, threads)
        strips = iter([(first, min(first + step, count)) for first in range(0, count, step)])
        try:
            torch.set_num_threads(1)  # for each thread's products; oneDNN packs weights otherwise for more
            weights = self._packed((1, self.groups * x.shape[1], step, 1))
            run_at_once(self._some, [(as_numpy(pixels), strips, step, weights, finish)] * threads)
        finally:
            torch.set_num_threads(threads)
        return out.permute(0, 3, 1, 2)

    def _some(
        self,
        pixels: np.ndarray,
        strips: Iterator[tuple[int, int]],
        step: int,
        weights: Tensor,
        finish: tuple[np.ndarray, bool, bool, np.ndarray],
    ) -> None:
        """One strip after the other while there are any; several threads at once, each of which works for itself.

        Args:
            finish: the last four arguments of `put_together`.
        """
        torch.set_num_threads(1)
        kernels, like = compiled.winograd_kernels(), (0,) * self._side
        transformed = torch.empty(1, step, 1, self.groups * self._conv.in_channels, dtype=self._conv.weight.dtype)
        numbers, channels_first = as_numpy(transformed), transformed.permute(0, 3, 1, 2)
        for first, last in strips:
            kernels.take_apart(pixels, first, last, like, numbers)
            products = ops.mkldnn._convolution_pointwise(
                *(channels_first, weights, None, self.padding, self.stride, self.dilation),
                *(self.groups, "none", [], ""),
            )
            kernels.put_together(as_numpy(products.permute(0, 2, 3, 1)), first, last, like, *finish)

    def _tiles(self, size: torch.Size) -> int:
        of_output = self._side - 2
        return size[0] * -(-size[2] // of_output) * -(-size[3] // of_output)

    def _strip(self, count: int, threads: int) -> int:
        """Tiles in each: of few sizes, since weights are packed for each, the one with which all are done first."""
        tile_bytes = self.groups * self._conv.in_channels * self._conv.weight.element_size()
        costs = _STRIP_COSTS / self._of_tile
        most = max(LEAST_IN_STRIP, int(STRIP_BYTES / tile_bytes) // _SMALLEST_STRIP * _SMALLEST_STRIP)
        sizes = [most >> halved for halved in range(most.bit_length()) if most >> halved >= _SMALLEST_STRIP]
        return min(sizes, key=lambda size: -(-count // (size * threads)) * (size + costs))


def _has_vectors(dtype: torch.dtype) -> bool:
    """bfloat16 with AMX multiplies so fast that the transforms take what is gained."""
    wide = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return wide and (dtype == torch.float32 or not torch.cpu._is_amx_tile_supported())
