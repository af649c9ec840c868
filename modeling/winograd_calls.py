"""Winograd's convolutions on all threads, several at once.

    calls ─▶ the strips of all of them ─▶ each thread takes the next one that is left

Of a pyramid's levels no thread waits for the others between two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from maskserve.modeling.process import run_at_once
from maskserve.modeling.winograd import Call, Room, Work


def convolve(calls: Sequence[Call]) -> list[Tensor]:
    """What each convolution answers, (B, C', H, W), channels last."""
    if not calls:
        return []
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # for each thread's products; oneDNN packs weights otherwise for more
        works = [call.of.work(call, threads) for call in calls]
        strips = iter([(work, first) for work in works for first in range(0, work.tiles, work.step)])
        run_at_once(_some, [(strips,)] * threads)
    finally:
        torch.set_num_threads(threads)
    return [work.out.permute(0, 3, 1, 2) for work in works]


def each(convs: Sequence[Any], maps: Sequence[Tensor], then: Conv2d | None = None) -> list[Tensor]:
    """Each map through its convolution: all at once for which that has a `winograd` that pays.

    Args:
        then: see `Call`.
    """
    pairs = [*zip(convs, maps, strict=True)]
    calls = {
        place: Call(conv.winograd, x, relu=conv.activation is not None, then=then)
        for place, (conv, x) in enumerate(pairs)
        if getattr(conv, "winograd", None) and conv.winograd.pays(x.shape)
    }
    found = dict(zip(calls, convolve([*calls.values()]), strict=True))
    after = then or nn.Identity()
    return [found[place] if place in found else after(conv(x)) for place, (conv, x) in enumerate(pairs)]


def _some(strips: Iterator[tuple[Work, int]]) -> None:
    """One strip after the other while there are any; several threads at once, each of which works for itself."""
    torch.set_num_threads(1)
    work: Work | None = None
    room: Room | None = None
    for one, first in strips:
        if room is None or one is not work:
            room = None  # its memory, which the cache has, becomes the next one's
            work, room = one, one.call.of.room(one)
        one.call.of.strip(one, first, room)
