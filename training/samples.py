"""Held-out photos with what the model finds on them, in one picture.

photos ─▶ Predictor ─▶ to_segmentation ─▶ draw_overlay ─▶ grid
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from maskserve.imaging.overlay import draw_overlay
from maskserve.modeling.answer import to_segmentation
from maskserve.modeling.predictor import Predictor
from maskserve.protos.types import ModelInfo, SegmentOptions
from maskserve.training.loader import Record, read_photo

TILE_PX = 420
"""Side of the square that each photo is fitted into."""
COLUMNS = 3
GAP_PX = 8
PAPER = 250


def sample_sheet(predictor: Predictor, records: Sequence[Record], count: int = 6) -> np.ndarray:
    """uint8 (H, W, 3) RGB: up to `count` photos, evenly picked, each with its overlay."""
    picked = [records[index * len(records) // count] for index in range(min(count, len(records)))]
    tiles = [_tile(_overlay(predictor, read_photo(record))) for record in picked]
    while len(tiles) % COLUMNS:
        tiles.append(np.full_like(tiles[0], PAPER))
    rows = [np.hstack(tiles[start : start + COLUMNS]) for start in range(0, len(tiles), COLUMNS)]
    return np.vstack(rows)


def _overlay(predictor: Predictor, photo: np.ndarray) -> np.ndarray:
    (prediction,), _ = predictor([photo])
    model = ModelInfo(name="sample", version="", backbone="")
    answer = to_segmentation(prediction, SegmentOptions(), predictor.class_names, model)
    return draw_overlay(photo, answer, legend=False)  # it would hide animals in so small a picture


def _tile(picture: np.ndarray) -> np.ndarray:
    """The picture in the middle of a square tile."""
    height, width = picture.shape[:2]
    scale = (TILE_PX - 2 * GAP_PX) / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    tile = np.full((TILE_PX, TILE_PX, 3), PAPER, np.uint8)
    top, left = (TILE_PX - size[1]) // 2, (TILE_PX - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = small
    return tile
