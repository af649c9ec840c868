"""ROIAlign on the CPU, channels last and on all threads: torchvision's is serial, channels first and float32 only.

    features, boxes ─▶ each box's level ─▶ a share of the boxes for each thread ─▶ `pool` of modeling/kernels.py

Where numba is not installed, Detectron2's pooler stays: slower, with the same answers.

Shape shorthand: R boxes, S side of the output in cells, C channels, H, W px of a level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor, nn

from maskserve.modeling import compiled

SMALLEST_SHARE = 32
"""Boxes that are worth a thread of their own."""


class ChannelsLastPooler(nn.Module):
    """What Detectron2's ROIPooler answers, to rounding; channels last in and out, `dtype` (float32, bfloat16) out."""

    def __init__(self, pooler: ROIPooler, dtype: torch.dtype) -> None:
        super().__init__()
        self.pooler, self._dtype = pooler, dtype
        self.output_size: tuple[int, int] = pooler.output_size

    def forward(self, features: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """(B, C, h, w) of each level, boxes of each image in px of the network's input ─▶ (R, C, S, S)."""
        boxes, images = boxes_and_images(box_lists)
        side, channels = self.output_size[0], features[0].shape[1]
        pooled = torch.empty(len(boxes), side, side, channels, dtype=self._dtype)
        levels = self.levels(box_lists)
        for level, (feature, align) in enumerate(zip(features, self.pooler.level_poolers, strict=True)):
            chosen = torch.nonzero(levels == level)[:, 0]
            if len(chosen):
                _align(feature, images[chosen], boxes[chosen], align, chosen, pooled)
        return pooled.permute(0, 3, 1, 2)

    def levels(self, box_lists: list[Boxes]) -> Tensor:
        """The level that each box is pooled from, 0 for the first: (R,) int64."""
        own = self.pooler
        if own.min_level == own.max_level:
            return torch.zeros(sum(map(len, box_lists)), dtype=torch.int64)
        return assign_boxes_to_levels(
            box_lists, own.min_level, own.max_level, own.canonical_box_size, own.canonical_level
        )


def boxes_and_images(box_lists: list[Boxes]) -> tuple[Tensor, Tensor]:
    """The boxes of all images, float32 (R, 4), and the place of each one's image in the batch, int64 (R,)."""
    counts = torch.tensor([len(one) for one in box_lists])
    images = torch.repeat_interleave(torch.arange(len(box_lists)), counts)
    return torch.cat([one.tensor for one in box_lists]).float(), images


def can_replace(pooler: ROIPooler) -> bool:
    """Whether `ChannelsLastPooler` can stand in for `pooler` here: ROIAlignV2 on a square of cells, and numba."""
    aligned = all(isinstance(level, ROIAlign) and level.aligned for level in pooler.level_poolers)
    return aligned and len(set(pooler.output_size)) == 1 and compiled.is_there()


def _align(feature: Tensor, images: Tensor, boxes: Tensor, align: ROIAlign, places: Tensor, pooled: Tensor) -> None:
    """Fill `pooled` (all boxes, S, S, C) at `places` with the boxes of one level."""
    pixels = feature.float().permute(0, 2, 3, 1).contiguous().numpy()
    # Half a pixel: continuous coordinates, in which the first pixel's centre lies at 0.5 (ROIAlignV2)
    scaled = (boxes * align.spatial_scale - 0.5).numpy()
    ratio = max(0, align.sampling_ratio)
    halved = pooled.dtype == torch.bfloat16
    # numpy has no bfloat16, so the kernel writes its bits
    target, where, image_of = (pooled.view(torch.uint16) if halved else pooled).numpy(), places.numpy(), images.numpy()
    shares = np.array_split(np.arange(len(scaled)), max(1, min(torch.get_num_threads(), len(scaled) // SMALLEST_SHARE)))
    calls = [(pixels, image_of[share], scaled[share], ratio, where[share], target, halved) for share in shares]
    run_at_once(compiled.kernels().pool, calls)


def run_at_once(kernel: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> None:
    """A kernel that gives Python's lock free, called with each of `calls`, a thread for each, this one included."""
    waiting = [_threads(len(calls) - 1).submit(kernel, *call) for call in calls[1:]]
    kernel(*calls[0])
    for one in waiting:
        one.result()


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=max(1, count), thread_name_prefix="roi_align")
