"""Non-maximum suppression on the CPU that stops as soon as enough boxes are kept.

    boxes, best first ─▶ each against the kept ones of its own group ─▶ the first n that overlap none of them

torchvision compares every kept box with all that follow, once for each group, and leaves it to its caller to throw away
all but the first n. Here the best box of all comes first whatever its group, so that nothing has to be done for those
behind the nth. The same boxes are kept: the overlap is calculated in the same way.

The kernel is compiled by numba when it is first needed. On a GPU, and where there is no numba, torchvision does it.

Shape shorthand: N boxes, G groups.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from detectron2.layers import batched_nms
from torch import Tensor


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, most: int) -> Tensor:
    """The places of the boxes that overlap no better one of their own group, best first: int64, at most `most`.

    Args:
        boxes: float32 (N, 4), xyxy.
        scores: float32 (N,).
        groups: int64 (N,), from 0: the level or the class of each box.
        threshold: an overlap (intersection over union) above it is one too many.
    """
    if boxes.is_cuda or find_spec("numba") is None:
        return batched_nms(boxes, scores, groups, threshold)[:most]
    order = scores.argsort(descending=True, stable=True)
    best_first, own_groups = boxes[order].numpy(), groups[order].numpy()
    group_count = int(own_groups.max(initial=-1)) + 1
    return order[torch.from_numpy(_kernel()(best_first, own_groups, group_count, threshold, most))]


@cache
def _kernel() -> Callable[[np.ndarray, np.ndarray, int, float, int], np.ndarray]:
    """The compiled kernel; it gives Python's lock free while it runs."""
    import numba

    return numba.njit(nogil=True)(_first_apart)


def _first_apart(boxes: Any, groups: Any, group_count: int, threshold: float, most: int) -> Any:
    """Places among the boxes, in their order; compiled."""
    size = min(boxes.shape[0], most)
    kept = np.empty((group_count, size), np.int64)
    counts = np.zeros(group_count, np.int64)
    chosen = np.empty(size, np.int64)
    found = 0
    for index in range(boxes.shape[0]):
        if found == size:
            break
        group = groups[index]
        left, top, right, bottom = boxes[index, 0], boxes[index, 1], boxes[index, 2], boxes[index, 3]
        area = (right - left) * (bottom - top)
        apart = True
        for place in range(counts[group]):
            other = kept[group, place]
            width = min(right, boxes[other, 2]) - max(left, boxes[other, 0])
            height = min(bottom, boxes[other, 3]) - max(top, boxes[other, 1])
            if width > 0 and height > 0:
                inside = width * height
                others = (boxes[other, 2] - boxes[other, 0]) * (boxes[other, 3] - boxes[other, 1])
                if inside / (others + area - inside) > threshold:
                    apart = False
                    break
        if apart:
            kept[group, counts[group]] = index
            counts[group] += 1
            chosen[found] = index
            found += 1
    return chosen[:found]
