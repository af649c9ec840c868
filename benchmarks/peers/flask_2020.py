"""A web API of 2020 in one file: `python -m benchmarks.peers.flask_2020 RUN PORT`.

What such files did: a new predictor for each request, Detectron2's Visualizer for the picture, the percentage of
masked pixels beside it, a PNG back, Flask's own server.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from flask import Flask, Response, request

from benchmarks.models import CLASS_NAMES
from benchmarks.peers.drawing import visualize
from benchmarks.peers.predictor import load_predictor


def create_app(run: Path) -> Flask:
    app = Flask(__name__)

    @app.get("/")
    def index() -> str:
        return "ok"

    @app.post("/predict")
    def predict() -> Response:
        data = np.frombuffer(request.files["image"].read(), np.uint8)
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
        instances = load_predictor(run)(image)["instances"].to("cpu")
        picture = visualize(image[:, :, ::-1], instances, CLASS_NAMES)
        response = Response(_png(picture), content_type="image/png")
        response.headers["X-Masked-Percent"] = f"{100 * instances.pred_masks.any(dim=0).float().mean().item():.2f}"
        return response

    return app


def _png(picture: Any) -> bytes:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    create_app(Path(sys.argv[1])).run(port=int(sys.argv[2]))
