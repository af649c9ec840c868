"""Detectron2's DefaultPredictor: a BGR photo in, full-frame masks out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.rounds import time_each


def load_predictor(run: Path | str, device: str = "cpu") -> Any:
    """The predictor of a run folder, made as Detectron2's tutorial makes one."""
    from detectron2.engine import DefaultPredictor

    from maskserve.modeling.config import load_cfg

    cfg = load_cfg(Path(run) / "config.yaml")
    cfg.MODEL.DEVICE = device
    cfg.MODEL.WEIGHTS = str(Path(run) / "model_best.pth")
    return DefaultPredictor(cfg)


def segment_each(
    cases: Mapping[str, tuple[str, int]], photo: str, device: str = "cpu"
) -> Callable[[], dict[str, dict[str, float]]]:
    """A step that segments a decoded photo in each of the cases: (run folder, so many photos) by name.

    DefaultPredictor takes one photo at a time, so several are a loop.
    """
    import cv2

    predictors = {run: load_predictor(run, device) for run, _ in cases.values()}
    image = cv2.imread(photo)

    def one_by_one(predictor: Any, count: int) -> int:
        return [len(predictor(image)["instances"].to("cpu")) for _ in range(count)][-1]

    return lambda: time_each(
        {name: partial(one_by_one, predictors[run], count) for name, (run, count) in cases.items()}
    )


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
