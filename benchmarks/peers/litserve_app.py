"""LitServe with DefaultPredictor inside: `python -m benchmarks.peers.litserve_app RUN PORT`.

Its defaults (one worker), a photo as a form's file, the answer as JSON with COCO RLE: booleans as lists would make
FastAPI walk through millions of values, which nobody keeps for long. (LitServe reads annotations at run time; so they
are no strings here.)
"""

import sys
from typing import Any

import cv2
import litserve
import numpy as np
from fastapi import Request
from pycocotools import mask as coco

from benchmarks.peers.predictor import load_predictor


class Segmentation(litserve.LitAPI):
    """One photo a request."""

    run: str

    def setup(self, _device: str) -> None:
        self.predictor = load_predictor(self.run)

    def decode_request(self, request: Request) -> np.ndarray:
        data = np.frombuffer(request["image"].file.read(), np.uint8)
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))

    def predict(self, image: np.ndarray) -> Any:
        return self.predictor(image)["instances"].to("cpu")

    def encode_response(self, found: Any) -> dict[str, Any]:
        masks = [np.asfortranarray(mask[:, :, None].astype(np.uint8)) for mask in found.pred_masks.numpy()]
        return {
            "classes": found.pred_classes.tolist(),
            "boxes": found.pred_boxes.tensor.tolist(),
            "scores": found.scores.tolist(),
            "masks": [coco.encode(mask)[0]["counts"].decode() for mask in masks],
        }


if __name__ == "__main__":
    api = Segmentation()
    api.run = sys.argv[1]
    server = litserve.LitServer(api, accelerator="cpu", timeout=False)
    server.run(port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
