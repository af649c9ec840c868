"""ROIAlign that can be trained through, on the CPU: torchvision's backward is serial and a tenth of a small step.

    gradient of a cell (C,) ─▶ each pixel that the cell read: += weight of its row · weight of its column · gradient

The weights are those of the forward (`taps` of modeling/kernels.py). A thread has a share of the channels, of all
boxes: no two write the same number, and each pixel is summed in the order of the boxes, whatever the number of threads.

Shape shorthand: R boxes, S side of the output in cells, C channels, B images of H × W px of a level.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from detectron2.layers import ROIAlign
from detectron2.structures import Boxes
from torch import Tensor

from maskserve.modeling import compiled
from maskserve.modeling.process import run_at_once
from maskserve.modeling.roi_align import ChannelsLastPooler, boxes_and_images

FEWEST_CHANNELS = 16
"""A thread's share: a cache line of float32, so that no two threads write to the same one."""


class TrainablePooler(ChannelsLastPooler):
    """Detectron2's ROIPooler with its gradients for the features, to rounding; boxes get none, as there."""

    def forward(self, features: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """(B, C, h, w) of each level, boxes of each image in px of the network's input ─▶ (R, C, S, S)."""
        pooled: Tensor = _Pool.apply(self, box_lists, *features)
        return pooled

    def pool(self, features: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        return super().forward(features, box_lists)


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pooler: TrainablePooler, box_lists: list[Boxes], *features: Tensor) -> Tensor:
        ctx.pooler, ctx.box_lists = pooler, box_lists
        ctx.shapes, ctx.dtype = [feature.shape for feature in features], features[0].dtype
        return pooler.pool([feature.detach() for feature in features], box_lists).to(ctx.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cells = gradient.float().permute(0, 2, 3, 1).contiguous()
        boxes, images = boxes_and_images(ctx.box_lists)
        levels = ctx.pooler.levels(ctx.box_lists)
        found: list[Tensor | None] = [None, None]
        for level, (shape, align) in enumerate(zip(ctx.shapes, ctx.pooler.pooler.level_poolers, strict=True)):
            batch, channels, height, width = shape
            pixels = torch.zeros(batch, height, width, channels)
            chosen = torch.nonzero(levels == level)[:, 0]
            if len(chosen):
                _spread(cells, images[chosen], boxes[chosen], align, chosen, pixels)
            found.append(pixels.permute(0, 3, 1, 2).to(ctx.dtype))
        return tuple(found)


def _spread(cells: Tensor, images: Tensor, boxes: Tensor, align: ROIAlign, places: Tensor, pixels: Tensor) -> None:
    """Add the gradients at `places` of `cells` (all boxes, S, S, C) to `pixels` (B, H, W, C) of their level."""
    scaled = (boxes * align.spatial_scale - 0.5).numpy()  # ROIAlignV2, as in the forward
    ratio = max(0, align.sampling_ratio)
    channels = pixels.shape[3]
    count = max(1, min(torch.get_num_threads(), channels // FEWEST_CHANNELS))
    edges = [channels * share // count // FEWEST_CHANNELS * FEWEST_CHANNELS for share in range(count)] + [channels]
    calls = [
        (cells.numpy(), images.numpy(), scaled, ratio, places.numpy(), pixels.numpy(), *edge)
        for edge in pairwise(edges)
    ]
    run_at_once(compiled.kernels().spread, calls)
