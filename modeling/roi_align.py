"""ROIAlign on the CPU, channels last and on all threads: torchvision's is serial, channels first and float32 only.

    features, boxes ─▶ each box's level ─▶ a share of the boxes for each thread ─▶ `pool` of modeling/kernels.py

Where numba is not installed, Detectron2's pooler stays: slower, with the same answers.

Shape shorthand: R boxes, S side of the output in cells, C channels, H, W px of a level.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor, nn

from maskserve.modeling import compiled
from maskserve.modeling.device import as_numpy
from maskserve.modeling.process import run_at_once
from maskserve.modeling.trunk import Affine

SMALLEST_SHARE = 32
"""Boxes that are worth a thread of their own."""


class ChannelsLastPooler(nn.Module):
    """What Detectron2's ROIPooler answers, to rounding; channels last in and out.

    Args:
        dtype: float32 or bfloat16, of what comes out.
        read_as: what each level's features stand for; none: themselves.
    """

    def __init__(self, pooler: ROIPooler, dtype: torch.dtype, read_as: Sequence[Affine] | None = None) -> None:
        super().__init__()
        self.pooler, self._dtype = pooler, dtype
        self._read_as = read_as or [Affine()] * len(pooler.level_poolers)
        self.output_size: tuple[int, int] = pooler.output_size

    def forward(self, features: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """(B, C, h, w) of each level, boxes of each image in px of the network's input ─▶ (R, C, S, S).

        Features are float32, bfloat16 or uint8, and are read as they are: a copy of a large photo's has 80 MB.
        """
        boxes, images = boxes_and_images(box_lists)
        side, channels = self.output_size[0], features[0].shape[1]
        pooled = torch.empty(len(boxes), side, side, channels, dtype=self._dtype)
        levels = self.levels(box_lists)
        for level, parts in enumerate(zip(features, self._read_as, self.pooler.level_poolers, strict=True)):
            chosen = torch.nonzero(levels == level)[:, 0]
            if len(chosen):
                _align(*parts, images[chosen], boxes[chosen], chosen, pooled)
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


def _align(
    feature: Tensor, read_as: Affine, align: ROIAlign, images: Tensor, boxes: Tensor, places: Tensor, pooled: Tensor
) -> None:
    """Fill `pooled` (all boxes, S, S, C) at `places` with the boxes of one level."""
    pixels = as_numpy(feature.permute(0, 2, 3, 1).contiguous())
    # Half a pixel: continuous coordinates, in which the first pixel's centre lies at 0.5 (ROIAlignV2)
    scaled = (boxes * align.spatial_scale - 0.5).numpy()
    ratio = max(0, align.sampling_ratio)
    scale, zero_point = np.float32(read_as.scale), np.float32(read_as.zero_point)
    target, where, image_of = as_numpy(pooled), places.numpy(), images.numpy()
    shares = np.array_split(np.arange(len(scaled)), max(1, min(torch.get_num_threads(), len(scaled) // SMALLEST_SHARE)))
    calls = [
        (pixels, scale, zero_point, image_of[share], scaled[share], ratio, where[share], target) for share in shares
    ]
    run_at_once(compiled.kernels().pool, calls)
