"""All levels of a feature pyramid on one sheet, so that one call pools boxes from all of them.

    p2 ┌──────┐
       │      │      each level with its border doubled ─▶ a box in its level's pixels, moved to where that level lies
       ├───┬──┘
    p3 │   │         On the border ROIAlign repeats the outermost pixel; here it finds it repeated.
       ├─┬─┘
    p4 └─┘

Detectron2's pooler looks which boxes are of which level, and Python waits for the GPU at each look. Here nothing waits.

Shape shorthand: B images, R boxes of all images, C channels, S side of the output in cells, h, w px of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor


class Atlas(NamedTuple):
    sheet: Tensor
    """float32 (B, C, the levels' heights and borders, the widest level's width and border)."""
    first_rows: tuple[int, ...]
    """Of each level on the sheet, its border left out."""


def can_pool(*poolers: ROIPooler) -> bool:
    """Whether `pool` stands in for these: ROIAlignV2, and all from the same levels."""
    aligns = [level for pooler in poolers for level in pooler.level_poolers]
    same = len({tuple(level.spatial_scale for level in pooler.level_poolers) for pooler in poolers}) == 1
    return same and all(isinstance(align, ROIAlign) and align.aligned for align in aligns)


def draw(features: Sequence[Tensor]) -> Atlas:
    """The sheet of a pyramid, (B, C, h, w) each, the largest level first."""
    count, channels, _, width = features[0].shape
    height = sum(level.shape[2] + 2 for level in features)
    # what no level covers is never read
    sheet = torch.empty(count, channels, height, width + 2, dtype=torch.float32, device=features[0].device)
    first_rows, top = [], 0
    for level in features:
        h, w = level.shape[2:]
        place = sheet[:, :, top : top + h + 2, : w + 2]
        place[:, :, 1:-1, 1:-1] = level
        for border, inner in ((0, 1), (-1, -2)):
            place[:, :, 1:-1, border] = place[:, :, 1:-1, inner]
        for border, inner in ((0, 1), (-1, -2)):
            place[:, :, border] = place[:, :, inner]
        first_rows.append(top + 1)
        top += h + 2
    return Atlas(sheet, tuple(first_rows))


def pool(atlas: Atlas, boxes: Tensor, pooler: ROIPooler) -> Tensor:
    """What `pooler` makes of the pyramid, to rounding.

    Args:
        boxes: float32 (B, N, 4), xyxy in px of the network's input, inside the image.

    Returns:
        float32 (B · N, C, S, S).
    """
    count, each = boxes.shape[:2]
    rows = boxes.reshape(-1, 4)
    levels = assign_boxes_to_levels(
        [Boxes(rows)], pooler.min_level, pooler.max_level, pooler.canonical_box_size, pooler.canonical_level
    )
    scales = _table([align.spatial_scale for align in pooler.level_poolers], rows)[levels]
    tops = _table(atlas.first_rows, rows)[levels]
    images = torch.arange(count, device=rows.device, dtype=rows.dtype).repeat_interleave(each)
    moved = rows * scales[:, None]
    moved = torch.stack([images, moved[:, 0] + 1, moved[:, 1] + tops, moved[:, 2] + 1, moved[:, 3] + tops], 1)
    ratio, (high, wide) = pooler.level_poolers[0].sampling_ratio, pooler.output_size
    pooled: Tensor = torch.ops.torchvision.roi_align(atlas.sheet, moved, 1.0, high, wide, ratio, True)
    return pooled


def _table(values: Sequence[float], like: Tensor) -> Tensor:
    """(L,), made on the device: nothing is copied there while kernels are recorded."""
    return torch.stack([torch.full((), float(value), device=like.device, dtype=like.dtype) for value in values])
