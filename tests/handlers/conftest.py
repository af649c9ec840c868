"""A tiny random model, built once, as the handler sees it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskserve.handlers.batch import Engine
from maskserve.protos.types import ModelInfo
from tests.runs import CLASS_NAMES, make_run

with warnings.catch_warnings():
    # TorchServe forgets to close its version.txt when it is imported
    warnings.simplefilter("ignore", ResourceWarning)
    import ts.metrics.dimension  # noqa: F401


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the small arm."""
    return make_run(tmp_path_factory.mktemp("runs") / "mnv2", "mobilenetv2")


@pytest.fixture(scope="session")
def engine(tiny_run: Path) -> Engine:
    """The tiny model behind the handler's core."""
    from maskserve.modeling.config import load_cfg
    from maskserve.modeling.predictor import Predictor

    predictor = Predictor(
        load_cfg(tiny_run / "config.yaml"), CLASS_NAMES, weights=tiny_run / "model_best.pth", device="cpu"
    )
    return Engine(predictor, ModelInfo("tiny", "1.0", "mobilenetv2", archive_digest="abc"), score_threshold=0.05)


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A JPEG of 90 × 120 px with something in it."""
    pixels = np.random.default_rng(1).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).resize((120, 90)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="session")
def tall_photo() -> bytes:
    """A PNG of 150 × 100 px."""
    file = BytesIO()
    Image.new("RGB", (100, 150), "teal").save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks are quicker without a second thread to wait for; other tests get theirs back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
