"""A convolution's weights in the layouts that oneDNN calculates with: it need not bring them there for every photo.

    size of the input, number of threads ─▶ layout ─▶ the weights in it

oneDNN chooses a layout for each of these, and takes weights in another one, but many times slower. Nearly all
sizes of one layer share a layout, so that each is kept once; in memory that is the weights a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, get_num_threads, ops

ASKED = ("_reorder_convolution_weight", "_get_mkldnn_serialized_md")
"""Operators of torch's namespace `mkldnn` that this needs."""
SIZES_KEPT = 64
"""Of inputs, whose layout is known: a photo's own and, in the mask head, each number of instances."""


def reordered(conv: Any, size: Sequence[int]) -> Tensor:
    """The weight of `conv`, which has the padding, stride, dilation and groups of one, for an input of that size."""
    return ops.mkldnn._reorder_convolution_weight(
        conv.weight, conv.padding, conv.stride, conv.dilation, conv.groups, tuple(size)
    )


class PackedWeights:
    """Of one convolution that no longer learns, on the CPU.

    Args:
        pack: of the convolution and (B, C, H, W) of an input: the weights for it, as oneDNN wants them.
    """

    def __init__(self, conv: Any, pack: Callable[[Any, Sequence[int]], Tensor] = reordered) -> None:
        self._conv, self._pack_for = conv, pack
        self._by_size: dict[tuple[int, ...], Tensor] = {}
        self._by_layout: dict[bytes, Tensor] = {}

    def __call__(self, size: Sequence[int]) -> Tensor:
        """For an input of that size, (B, C, H, W)."""
        place = (get_num_threads(), *size)
        found = self._by_size.get(place)
        return self._pack(place) if found is None else found

    def _pack(self, place: tuple[int, ...]) -> Tensor:
        if len(self._by_size) >= SIZES_KEPT:
            self._by_size.clear()
            self._by_layout.clear()
        packed = self._pack_for(self._conv, place[1:])
        layout = ops.mkldnn._get_mkldnn_serialized_md(packed).numpy().tobytes()
        self._by_size[place] = self._by_layout.setdefault(layout, packed)
        return self._by_size[place]
