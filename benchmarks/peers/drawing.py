"""What Detectron2 offers for pictures and masks: Visualizer, full-frame masks; and Pillow for reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Step = Callable[[], dict[str, Any]]


def visualize(image_rgb: np.ndarray, instances: Any, class_names: Sequence[str]) -> np.ndarray:
    """uint8 (H, W, 3) RGB with boxes, masks and labels drawn by matplotlib."""
    from detectron2.data import MetadataCatalog
    from detectron2.utils.visualizer import Visualizer

    metadata = MetadataCatalog.get("benchmark").set(thing_classes=list(class_names))
    picture: np.ndarray = Visualizer(image_rgb, metadata).draw_instance_predictions(instances).get_image()
    return picture


def overlay(scene: str) -> Step:
    """A step that draws the scene of `benchmarks.scene` with Visualizer."""
    import torch
    from detectron2.layers import paste_masks_in_image
    from detectron2.structures import Boxes, Instances

    from benchmarks.models import CLASS_NAMES
    from benchmarks.scene import Scene

    drawn = Scene.read(Path(scene))
    boxes = Boxes(torch.from_numpy(drawn.boxes_xyxy))
    instances = Instances(drawn.size)
    instances.pred_boxes, instances.scores = boxes, torch.from_numpy(drawn.scores)
    instances.pred_classes = torch.from_numpy(drawn.class_ids)
    instances.pred_masks = paste_masks_in_image(torch.from_numpy(drawn.mask_probs), boxes, drawn.size)

    def step() -> dict[str, Any]:
        return {"shape": visualize(drawn.image_rgb, instances, CLASS_NAMES).shape}

    return step


def rle(scene: str) -> Step:
    """A step from the heads' mask probabilities to COCO RLE: full-frame masks, then pycocotools."""
    import torch
    from detectron2.layers import paste_masks_in_image
    from detectron2.structures import Boxes
    from pycocotools import mask as coco

    from benchmarks.scene import Scene

    drawn = Scene.read(Path(scene))
    boxes, probs = Boxes(torch.from_numpy(drawn.boxes_xyxy)), torch.from_numpy(drawn.mask_probs)

    def step() -> dict[str, Any]:
        masks = paste_masks_in_image(probs, boxes, drawn.size).numpy()
        coded = [coco.encode(np.asfortranarray(mask[:, :, None].astype(np.uint8)))[0]["counts"] for mask in masks]
        return {"counts": [counts.decode() for counts in coded]}

    return step


def decode_and_resize(photo: str, short_side: int) -> Step:
    """A step from a JPEG file's bytes to the network's pixels: Pillow decodes all of it, then shrinks."""
    data = Path(photo).read_bytes()

    def step() -> dict[str, Any]:
        return {"shape": pillow_pixels(data, short_side).shape}

    return step


def pillow_pixels(data: bytes, short_side: int) -> np.ndarray:
    """uint8 (h, w, 3) RGB with the shorter side at `short_side` px."""
    from io import BytesIO

    from PIL import Image

    image = Image.open(BytesIO(data)).convert("RGB")
    scale = short_side / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))
