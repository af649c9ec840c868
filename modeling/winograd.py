"""A 3×3 convolution with fewer multiplications, on a CPU: Winograd's, as Lavin and Gray have it ("Fast Algorithms for
Convolutional Neural Networks", 2016).

    some tiles of x ─▶ transformed ─▶ a matrix product for each of their n² places ─▶ transformed back, + bias, ReLU

Tiles are 4 × 4 px of the output, for which a pixel and two channels take 2.25 multiplications instead of 9. Transforms
are numba's (`winograd_kernels.py`), the products oneDNN's, as a convolution with a group for each place. Each thread
takes some tiles all the way, so that what lies between the arrows stays in its core's cache.

What a layer's rounding loses of a trained FPN and RPN, and as they are defined: in float32 3 to 5e-7 of what it answers
(6e-7), in bfloat16 0.5 to 0.7 % (0.2), in int8 (`winograd_int8.py`) 1.4 to 2.1 % (0.9 to 1.3).

Shape shorthand: B images, C, C' channels, H, W px, n side of a tile with what its pixels see around it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn, ops
from torch.nn import functional as F

from maskserve.modeling import compiled
from maskserve.modeling.device import as_numpy, has_vectors
from maskserve.modeling.packed import PackedWeights

LEAST_CHANNELS = 64
MOST_THREADS = 8
"""Python hands out the tiles, some 60 µs for 0.4 ms or more of a thread's work: so not to many threads."""
STRIP_BYTES = 3_400_000
"""Of numbers before and after their products that a thread has at a time, but of no fewer than `LEAST_IN_STRIP` tiles:
for each strip it reads all weights."""
LEAST_IN_STRIP = 128
_STRIP_STEP = 16


class Way(NamedTuple):
    """What is multiplied."""

    number_bytes: int
    """What a number takes before its product and after it."""
    least: int
    """Multiplications of a map, from which it was seen to be faster than the definition."""


WAYS = {
    torch.float32: Way(8, 12_000_000),
    torch.bfloat16: Way(4, 50_000_000),
    torch.uint8: Way(3, 30_000_000),
}


def suits(conv: Conv2d) -> bool:
    """Whether a convolution on this CPU can be done so, and was seen to be faster."""
    plain = conv.kernel_size == (3, 3) and conv.groups == 1 and conv.padding_mode == "zeros"
    relu = conv.activation in (None, F.relu) or isinstance(conv.activation, nn.ReLU)
    keeps_size = conv.stride == conv.padding == conv.dilation == (1, 1)
    channels = (conv.in_channels, conv.out_channels)
    wide = all(count >= LEAST_CHANNELS and count % compiled.NUMBERS_AT_ONCE == 0 for count in channels)
    fast = has_vectors(conv.weight.dtype, "AVX2", "AVX512") and compiled.is_there()
    return plain and relu and keeps_size and wide and fast


def few_threads() -> bool:
    """Whether there are as few as it was seen to be faster with."""
    return torch.get_num_threads() <= MOST_THREADS


class Call(NamedTuple):
    """What is asked of a convolution."""

    of: Winograd
    x: Tensor
    """(B, C, H, W)."""
    relu: bool
    onto: Tensor | None = None
    """(B, C', H, W), to which the answer is added before the ReLU, in its memory."""
    then: Conv2d | None = None
    """A 1×1 convolution of that answer, prepared by `maskserve.modeling.fused_cpu`: only what it answers is wanted."""


class Source(NamedTuple):
    """A map as the kernels read it: channels last, and perhaps a part of a larger one."""

    numbers: np.ndarray
    """All of them, flat."""
    size: tuple[int, ...]
    """(B, H, W, C)"""
    pitches: tuple[int, ...]
    """Numbers from an image to the next, and from a row."""

    @classmethod
    def of(cls, x: Tensor) -> Source:
        """(B, C, H, W); copied where it is not channels last."""
        pixels = x.permute(0, 2, 3, 1)
        if pixels.stride()[2:] != (x.shape[1], 1):
            pixels = pixels.contiguous()
        spans = [(side - 1) * step for side, step in zip(pixels.shape, pixels.stride(), strict=True)]
        return cls(as_numpy(pixels.as_strided((sum(spans) + 1,), (1,))), tuple(pixels.shape), pixels.stride()[:2])


class Work(NamedTuple):
    """A call made ready for the threads."""

    call: Call
    source: Source
    tiles: int
    step: int
    """Tiles in a strip."""
    weights: Tensor
    then_weights: Tensor | None
    out: Tensor
    """(B, H, W, C'), or what follows makes of it."""


class Room(NamedTuple):
    """Of a thread, for the numbers of a strip."""

    numbers: Tensor
    """(1, n² · C, tiles, 1), channels last."""
    units: np.ndarray | None
    """Of what is rounded, float32 (n² · tiles)."""
    answers: Tensor | None
    """(tiles, 4, 4, C'), where something follows."""


class Winograd:
    """Of one convolution that suits, and no longer learns."""

    padding, stride, dilation = (0, 0), (1, 1), (1, 1)

    def __init__(self, conv: Conv2d, way: Way | None = None) -> None:
        self._conv = conv
        self._way = way or WAYS[conv.weight.dtype]
        self.groups, self._inner = compiled.winograd_kernels().PLACES, compiled.winograd_kernels().INNER
        self._of_tile = self.groups * conv.in_channels * conv.out_channels
        self._packed = PackedWeights(self)
        shift = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.float()
        self._bias: np.ndarray = shift.numpy()

    @property
    def weight(self) -> Tensor:
        """(n² · C', C, 1, 1) of the products. Calculated when it is asked for: what is packed of it is kept."""
        return self._filters()[:, :, None, None].to(self._conv.weight.dtype)

    def pays(self, size: torch.Size) -> bool:
        """Whether it is faster for an input of that size, (B, C, H, W)."""
        return self._tiles(size) * self._of_tile >= self._way.least and few_threads()

    def work(self, call: Call, threads: int) -> Work:
        """For so many threads; torch itself has one while this is asked."""
        source, onto, then = Source.of(call.x), call.onto, call.then
        if onto is None:
            channels = (then or self._conv).out_channels
            out = torch.empty(*source.size[:3], channels, dtype=self._conv.weight.dtype)
        else:
            out = onto.permute(0, 2, 3, 1).contiguous()
        tiles = self._tiles(call.x.shape)
        step = self._strip_size(tiles, threads)
        weights = self._packed((1, self.groups * self._conv.in_channels, step, 1))
        then_weights = then and then.packed((1, then.in_channels, step * self._inner**2, 1))
        return Work(call, source, tiles, step, weights, then_weights, out)

    def room(self, work: Work) -> Room:
        """Of a thread that does it."""
        return Room(self._empty(work.step, self._conv.weight.dtype), None, self._answers(work))

    def strip(self, work: Work, first: int, room: Room) -> None:
        """The tiles from `first` on; in a thread of its own."""
        last, call, out = min(first + work.step, work.tiles), work.call, as_numpy(work.out)
        products = self._multiplied(work.source, first, last, room, work.weights)
        put_together = partial(
            compiled.winograd_kernels().put_together, as_numpy(products.permute(0, 2, 3, 1)), room.units
        )
        then, answers = call.then, room.answers
        if then is None or answers is None:
            put_together(first, last, self._bias, call.onto is not None, call.relu, out)
            return
        put_together(0, last - first, self._bias, False, call.relu, as_numpy(answers))
        found = ops.mkldnn._convolution_pointwise(
            *(answers.view(1, -1, 1, then.in_channels).permute(0, 3, 1, 2), work.then_weights, then.bias),
            *(then.padding, then.stride, then.dilation, then.groups, "none", [], ""),
        )
        compiled.winograd_kernels().put_tiles(as_numpy(found.permute(0, 2, 3, 1)), first, last, out)

    def _multiplied(self, source: Source, first: int, last: int, room: Room, weights: Tensor) -> Tensor:
        """Products of tiles `first` to `last`, (1, n² · C', tiles, 1), channels last."""
        numbers = room.numbers
        compiled.winograd_kernels().take_apart(*source, 0, first, last, as_numpy(numbers.permute(0, 2, 3, 1)))
        return ops.mkldnn._convolution_pointwise(
            *(numbers, weights, None, self.padding, self.stride, self.dilation, self.groups, "none", [], "")
        )

    def _answers(self, work: Work) -> Tensor | None:
        size = (work.step, self._inner, self._inner, self._conv.out_channels)
        return torch.empty(size, dtype=work.out.dtype) if work.call.then else None

    def _empty(self, step: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(1, step, 1, self.groups * self._conv.in_channels, dtype=dtype).permute(0, 3, 1, 2)

    def _filters(self) -> Tensor:
        """(n² · C', C) of the products, float64."""
        filters = torch.tensor(_filters_at(compiled.winograd_kernels().POINTS), dtype=torch.float64)
        places = self._conv.weight.permute(2, 3, 0, 1).double().reshape(9, -1)
        return (torch.kron(filters, filters) @ places).reshape(-1, self._conv.in_channels)  # G w Gᵀ

    def _tiles(self, size: torch.Size) -> int:
        return size[0] * -(-size[2] // self._inner) * -(-size[3] // self._inner)

    def _strip_size(self, tiles: int, threads: int) -> int:
        """Of few, since weights are packed for each, one with which all threads have the same number of strips."""
        tile_bytes = self.groups * self._conv.in_channels * self._way.number_bytes
        most = max(LEAST_IN_STRIP, STRIP_BYTES // tile_bytes)
        rounds = -(-tiles // (threads * most))
        return -(-tiles // (threads * rounds * _STRIP_STEP)) * _STRIP_STEP


def _filters_at(points: Sequence[float]) -> list[tuple[float, float, float]]:
    """G, (n, 3), of tiles that are looked at there and at infinity: Toom's and Cook's polynomials."""
    scales = [math.prod(point - other for other in points if other != point) for point in points]
    finite = [(1 / scale, point / scale, point**2 / scale) for point, scale in zip(points, scales, strict=True)]
    return [*finite, (0.0, 0.0, 1.0)]
