"""ROIAlign on the CPU, channels last and on all threads: torchvision's is serial, channels first and float32 only.

    feature (h, w, C), box ─▶ weight of each row and each column of a cell ─▶ Σ rows Σ columns weight · C values

ROIAlign (He et al., "Mask R-CNN", 2017, section 3) averages bilinear samples in each cell of a box. Bilinear weights
are a product of a weight in y and one in x, and so is their sum over a regular grid of samples: so it is enough to
know, for each row and each column that a cell's samples touch, the sum of its weights. That is a quarter of the reads.

The kernel is compiled by numba when it is first needed (about two seconds). Where numba is not installed, Detectron2's
pooler stays: slower, with the same answers.

Shape shorthand: R boxes, S side of the output in cells, C channels, H, W px of a level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor, nn

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
    return aligned and len(set(pooler.output_size)) == 1 and find_spec("numba") is not None


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
    calls = [(pixels, image_of[share], scaled[share], ratio, where[share], target) for share in shares]
    run_at_once(_kernel(halved), calls)


def run_at_once(kernel: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> None:
    """A kernel that gives Python's lock free, called with each of `calls`, a thread for each, this one included."""
    waiting = [_threads(len(calls) - 1).submit(kernel, *call) for call in calls[1:]]
    kernel(*calls[0])
    for one in waiting:
        one.result()


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=max(1, count), thread_name_prefix="roi_align")


@cache
def _kernel(halved: bool) -> Callable[..., None]:
    """The compiled kernel, for a target of bfloat16 bits or of float32; it gives Python's lock free while it runs."""
    import numba

    # "reassoc" and "contract" allow vectors and fused multiply-adds; infinities and NaN keep their meaning
    compile_ = numba.njit(nogil=True, fastmath={"reassoc", "contract"})
    along, store = compile_(taps), compile_(_store_bfloat16 if halved else _store)

    def pool(pixels: Any, image_of: Any, boxes: Any, ratio: int, places: Any, target: Any) -> None:
        _, height, width, channels = pixels.shape
        side = target.shape[1]
        total = np.empty(channels, np.float32)
        for index in range(boxes.shape[0]):
            first_x, weight_x = along(boxes[index, 0], boxes[index, 2], side, ratio, width)
            first_y, weight_y = along(boxes[index, 1], boxes[index, 3], side, ratio, height)
            for cell_y in range(side):
                for cell_x in range(side):
                    total[:] = 0
                    for row in range(weight_y.shape[1]):
                        for column in range(weight_x.shape[1]):
                            weight = weight_y[cell_y, row] * weight_x[cell_x, column]
                            if weight == 0:
                                continue
                            pixel = pixels[image_of[index], first_y[cell_y] + row, first_x[cell_x] + column]
                            for channel in range(channels):
                                total[channel] += weight * pixel[channel]
                    store(total, target[places[index], cell_y, cell_x])

    return compile_(pool)


def _store(total: Any, out: Any) -> None:
    """Compiled."""
    out[:] = total


def _store_bfloat16(total: Any, out: Any) -> None:
    """The upper half of each float32's bits, rounded to the nearest, to even in the middle; compiled."""
    bits = total.view(np.uint32)
    for place in range(bits.shape[0]):
        out[place] = (bits[place] + np.uint32(0x7FFF) + ((bits[place] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(
            16
        )


def taps(start: Any, stop: Any, cells: int, ratio: int, length: int) -> Any:
    """(first pixel of each cell (S,), weights of the pixels from there on (S, K)) along one axis; compiled.

    As torchvision's kernel has it: samples further than a pixel outside count 0, others are moved to the edge; without
    a sampling ratio there is one sample a pixel, rounded up.
    """
    cell = (stop - start) / np.float32(cells)
    samples = ratio if ratio > 0 else int(np.ceil(cell))
    # one more than the samples can touch, since a place may be rounded up
    reach = 3 if samples < 2 else int(np.ceil((samples - 1) * cell / samples)) + 3
    first = np.zeros(cells, np.int64)
    weights = np.zeros((cells, reach), np.float32)
    for index in range(cells):
        for sample in range(samples):
            place = (
                start + np.float32(index) * cell + (np.float32(sample) + np.float32(0.5)) * cell / np.float32(samples)
            )
            inside = -1.0 <= place <= length
            place = min(max(place, np.float32(0)), np.float32(length - 1))
            below = int(place)
            if sample == 0:
                first[index] = below
            if inside:
                upper = place - np.float32(below)
                weights[index, below - first[index]] += (np.float32(1) - upper) / np.float32(samples)
                if upper > 0:
                    weights[index, below - first[index] + 1] += upper / np.float32(samples)
    return first, weights
