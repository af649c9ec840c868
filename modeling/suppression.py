"""Non-maximum suppression on the CPU that stops as soon as enough boxes are kept.

    boxes, best first ─▶ each against the kept ones of its own group ─▶ the first n that overlap none of them

torchvision compares every kept box with all that follow, once for each group, and leaves it to its caller to throw away
all but the first n. Here the best box of all comes first whatever its group, so that nothing has to be done for those
behind the nth. The same boxes are kept: the overlap is calculated in the same way.

On a GPU, and where there is no numba, torchvision does it.

Shape shorthand: N boxes, G groups.
"""

from __future__ import annotations

import torch
from detectron2.layers import batched_nms
from torch import Tensor

from maskserve.modeling import compiled


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, most: int) -> Tensor:
    """The places of the boxes that overlap no better one of their own group, best first: int64, at most `most`.

    Args:
        boxes: float32 (N, 4), xyxy.
        scores: float32 (N,).
        groups: int64 (N,), from 0: the level or the class of each box.
        threshold: an overlap (intersection over union) above it is one too many.
    """
    if boxes.device.type != "cpu" or not compiled.is_there():
        return batched_nms(boxes, scores, groups, threshold)[:most]
    order = scores.argsort(descending=True, stable=True)
    best_first, own_groups = boxes[order].numpy(), groups[order].numpy()
    group_count = int(own_groups.max(initial=-1)) + 1
    first_apart = compiled.kernels().first_apart
    return order[torch.from_numpy(first_apart(best_first, own_groups, group_count, threshold, most))]
