"""Held-out photos with what the model finds on them, in one picture.

photos ─▶ Predictor ─▶ to_segmentation ─▶ draw_overlay ─▶ grid
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskserve.imaging.overlay import draw_overlay
from maskserve.imaging.sheet import fitted, sheet
from maskserve.modeling.answer import to_segmentation
from maskserve.modeling.predictor import Predictor
from maskserve.protos.types import ModelInfo, SegmentOptions
from maskserve.training.loader import Record, read_photo

CELL_PX = 420


def sample_sheet(predictor: Predictor, records: Sequence[Record], count: int = 6) -> np.ndarray:
    """uint8 (H, W, 3) RGB: up to `count` photos, evenly picked, each with its overlay."""
    picked = [records[index * len(records) // count] for index in range(min(count, len(records)))]
    return sheet([fitted(_overlay(predictor, read_photo(record)), CELL_PX) for record in picked], CELL_PX)


def _overlay(predictor: Predictor, photo: np.ndarray) -> np.ndarray:
    (prediction,), _ = predictor([photo])
    model = ModelInfo(name="sample", version="", backbone="")
    answer = to_segmentation(prediction, SegmentOptions(), predictor.class_names, model)
    return draw_overlay(photo, answer, legend=False)  # it would hide animals in so small a picture
