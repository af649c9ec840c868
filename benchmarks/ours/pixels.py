"""What maskserve does with the same pictures and masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Step = Callable[[], dict[str, Any]]


def overlay(scene: str) -> Step:
    """A step that draws the scene of `benchmarks.scene`, legend included, into the picture as the gateway does: again
    and again into the same one, which costs what a fresh one costs."""
    from benchmarks.models import CLASS_NAMES
    from benchmarks.scene import Scene
    from maskserve.imaging.overlay import paint_overlay
    from maskserve.modeling.answer import to_segmentation
    from maskserve.modeling.predictor import Prediction
    from maskserve.protos.types import ModelInfo, SegmentOptions

    drawn = Scene.read(Path(scene))
    found = Prediction(drawn.size, drawn.boxes_xyxy, drawn.scores, drawn.class_ids, drawn.mask_probs)
    answer = to_segmentation(found, SegmentOptions(), CLASS_NAMES, ModelInfo("", "", ""))

    def step() -> dict[str, Any]:
        return {"shape": paint_overlay(drawn.image_rgb, answer).shape}

    return step


def rle(scene: str) -> Step:
    """A step from the heads' mask probabilities to COCO RLE."""
    from benchmarks.scene import Scene
    from maskserve.modeling.paste import paste_masks

    drawn = Scene.read(Path(scene))

    def step() -> dict[str, Any]:
        pasted = paste_masks(drawn.mask_probs, drawn.boxes_xyxy, drawn.size)
        return {"counts": [mask.counts for mask, _ in pasted]}

    return step


def decode_and_resize(photo: str, short_side: int) -> Step:
    """A step from a JPEG file's bytes to the network's pixels, in a process set up like a worker's."""
    import torch

    from maskserve.modeling.process import prepare_process

    prepare_process(torch.get_num_threads())
    data = Path(photo).read_bytes()

    def step() -> dict[str, Any]:
        return {"shape": network_pixels(data, short_side).shape}

    return step


def network_pixels(data: bytes, short_side: int) -> np.ndarray:
    """uint8 (h, w, 3) RGB as the network of a worker sees a file."""
    from maskserve.imaging.decode import decode_near
    from maskserve.modeling.pixels import network_size
    from maskserve.modeling.resize import resize

    def seen_at(size: tuple[int, int]) -> tuple[int, int]:
        return network_size(size, short_side, 10 * short_side)

    pixels, size = decode_near(data, seen_at)
    return resize(pixels, seen_at(size), size)
