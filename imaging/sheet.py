"""Pictures ─▶ each in the middle of a square cell ─▶ one contact sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
GAP_PX = 8
_PAPER = 250
_LANDSCAPE = 1.4
"""Columns for every row."""


def fitted(picture: Pixels, side_px: int) -> Pixels:
    """uint8 (H, W, 3) scaled so that its longer side is `side_px`."""
    height, width = picture.shape[:2]
    scale = side_px / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shrinks = scale < 1
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC), np.uint8)


def sheet(pictures: Sequence[Pixels], cell_px: int) -> Pixels:
    """uint8 (H, W, 3): the pictures, none larger than `cell_px` on a side, row by row on light paper."""
    columns = max(1, round(math.sqrt(len(pictures) * _LANDSCAPE)))
    rows = math.ceil(len(pictures) / columns)
    pitch = cell_px + GAP_PX
    canvas = np.full((rows * pitch + GAP_PX, columns * pitch + GAP_PX, 3), _PAPER, np.uint8)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        height, width = picture.shape[:2]
        top = GAP_PX + row * pitch + (cell_px - height) // 2
        left = GAP_PX + column * pitch + (cell_px - width) // 2
        canvas[top : top + height, left : left + width] = picture
    return canvas
