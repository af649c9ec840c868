"""Detectron2's DefaultPredictor: a BGR photo in, full-frame masks out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def load_predictor(run: Path | str, device: str = "cpu") -> Any:
    """The predictor of a run folder, made as Detectron2's tutorial makes one."""
    from detectron2.engine import DefaultPredictor

    from maskserve.modeling.config import load_cfg

    cfg = load_cfg(Path(run) / "config.yaml")
    cfg.MODEL.DEVICE = device
    cfg.MODEL.WEIGHTS = str(Path(run) / "model_best.pth")
    return DefaultPredictor(cfg)


def segment(run: str, photo: str, device: str = "cpu", batch: int = 1) -> Callable[[], dict[str, Any]]:
    """A step that segments a decoded photo; it takes one at a time, so a batch is a loop."""
    import cv2

    predictor, image = load_predictor(run, device), cv2.imread(photo)

    def step() -> dict[str, Any]:
        for _ in range(batch):
            instances = predictor(image)["instances"].to("cpu")
        return {"instances": len(instances)}

    return step


def segment_to_rle(run: str, photo: str) -> Callable[[], dict[str, Any]]:
    """The same, and every mask as COCO RLE, as Detectron2's evaluator writes them."""
    import cv2
    import numpy as np
    from pycocotools import mask as coco

    predictor, image = load_predictor(run), cv2.imread(photo)

    def step() -> dict[str, Any]:
        instances = predictor(image)["instances"].to("cpu")
        for mask in instances.pred_masks.numpy():
            coco.encode(np.asfortranarray(mask[:, :, None].astype(np.uint8)))[0]
        return {"instances": len(instances)}

    return step
