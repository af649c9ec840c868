"""Photos at the sizes that a network is trained on, and the variety of scales that a small data set lacks.

    photo ─▶ one of MIN_SIZE_TRAIN, its training size ─▶ × a random factor (SCALE_JITTER) ─▶ what stands out is cut off

A photo is scaled once, from the pixels at hand. One that comes out smaller than its training size stays smaller;
Detectron2 pads the batch.
"""

from __future__ import annotations

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T


class ResizeAndCrop(T.Augmentation):
    """Short side one of `sizes`, long side at most `longest` px; × a factor of `jitter`, cut to the size without it."""

    def __init__(self, sizes: tuple[int, ...], longest: int, jitter: tuple[float, float] = (1.0, 1.0)) -> None:
        super().__init__()
        self.sizes, self.longest, self.jitter = sizes, longest, jitter

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        sized = training_size((height, width), int(np.random.choice(self.sizes)), self.longest)
        factor = np.random.uniform(*self.jitter)
        scaled = tuple(max(1, round(side * factor)) for side in sized)
        resize = T.ResizeTransform(height, width, *scaled)
        if factor <= 1:
            return resize
        top, left = (np.random.randint(long - short + 1) for long, short in zip(scaled, sized, strict=True))
        return T.TransformList([resize, T.CropTransform(left, top, sized[1], sized[0], scaled[1], scaled[0])])


def training_size(size: tuple[int, int], short: int, longest: int) -> tuple[int, int]:
    """(height, width) of a photo of `size` scaled to a short side of `short` px, or less where that is too long."""
    height, width = T.ResizeShortestEdge.get_output_shape(*size, short, longest)
    return height, width


def for_steps(cfg: CfgNode) -> ResizeAndCrop:
    """What a photo goes through in a training step."""
    return ResizeAndCrop(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.SCALE_JITTER)


def for_memory(cfg: CfgNode) -> ResizeAndCrop:
    """The largest size that a step may ask for, in which a photo is kept in memory."""
    largest = max(1.0, cfg.INPUT.SCALE_JITTER[1])
    return ResizeAndCrop((round(max(cfg.INPUT.MIN_SIZE_TRAIN) * largest),), round(cfg.INPUT.MAX_SIZE_TRAIN * largest))
