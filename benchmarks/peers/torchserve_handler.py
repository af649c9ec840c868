"""A TorchServe handler as Detectron2's users write it: DefaultPredictor, one photo after the other, JSON back.

TorchServe's own example for Detectron2 answers boxes, scores and classes, and of masks only that there are some;
with `masks: true` in model-config.yaml they are in the answer, as lists of booleans (pytorch/serve issue 769).
"""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class Detectron2Handler:
    """initialize, then preprocess ─▶ inference ─▶ postprocess for each batch."""

    def initialize(self, context: Any) -> None:
        # MobileNetV2 registers itself there; with a ResNet, get_cfg() would do
        from detectron2.engine import DefaultPredictor

        from maskserve.modeling.config import load_cfg

        folder = Path(context.system_properties["model_dir"])
        cfg = load_cfg(folder / "config.yaml")
        cfg.MODEL.WEIGHTS = str(folder / "model.pth")
        cfg.MODEL.DEVICE = "cpu"
        self.masks = bool((context.model_yaml_config or {}).get("masks"))
        self.predictor = DefaultPredictor(cfg)

    def preprocess(self, rows: list[dict[str, Any]]) -> list[np.ndarray]:
        """BGR."""
        images = [Image.open(BytesIO(row.get("body") or row["data"])).convert("RGB") for row in rows]
        return [np.array(image)[:, :, ::-1] for image in images]

    def inference(self, images: list[np.ndarray]) -> list[Any]:
        return [self.predictor(image)["instances"].to("cpu") for image in images]

    def postprocess(self, found: list[Any]) -> list[str]:
        return [json.dumps(self._answer(instances)) for instances in found]

    def handle(self, rows: list[dict[str, Any]], _context: Any) -> list[str]:
        return self.postprocess(self.inference(self.preprocess(rows)))

    def _answer(self, instances: Any) -> dict[str, Any]:
        answer = {
            "classes": instances.pred_classes.tolist(),
            "boxes": instances.pred_boxes.tensor.tolist(),
            "scores": instances.scores.tolist(),
        }
        return {**answer, "masks": instances.pred_masks.tolist()} if self.masks else answer
