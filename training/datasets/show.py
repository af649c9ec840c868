"""Labelled photos ▶ a seeded choice ▶ each scaled into a cell with its masks drawn ▶ one contact sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from maskserve.imaging.overlay import draw_overlay
from maskserve.protos.errors import DataError
from maskserve.training.datasets.photos import decode_photo
from maskserve.training.datasets.samples import Sample, find_samples, to_segmentation

Pixels = NDArray[np.uint8]
CELL_PX = 360
GAP_PX = 8
PAPER = 250


def contact_sheet(
    path: Path, *, count: int = 24, seed: int = 0, on_photo: Callable[[int, int], None] = lambda _done, _total: None
) -> Pixels:
    """RGB uint8 sheet of up to `count` photos, chosen by `seed`, in file order.

    Raises:
        DataError: when there are no labels, or a chosen photo cannot be read.
    """
    samples = find_samples(path)
    names = sorted({name for sample in samples for name, _ in sample.masks})
    class_ids = {name: index for index, name in enumerate(names)}
    order = np.random.default_rng(seed).permutation(len(samples))[:count]
    cells = []
    for done, index in enumerate(sorted(order.tolist()), 1):
        cells.append(_cell(samples[index], class_ids))
        on_photo(done, len(order))
    return _tiled(cells)


def _cell(sample: Sample, class_ids: Mapping[str, int]) -> Pixels:
    try:
        photo = decode_photo(sample.read())
    except (DataError, OSError) as error:
        raise DataError(f"{sample.name}: the photo cannot be shown: {error}; see `maskserve data check`.") from None
    height, width = photo.shape[:2]
    scale = CELL_PX / max(height, width)
    shown = max(round(height * scale), 1), max(round(width * scale), 1)
    resized = cv2.resize(photo, shown[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    small = np.asarray(resized, np.uint8)
    return draw_overlay(
        small, to_segmentation(sample.masks, (height, width), shown, class_ids), legend=False, scores=False
    )


def _tiled(cells: Sequence[Pixels]) -> Pixels:
    columns = round(math.sqrt(len(cells) * 1.4))
    rows = math.ceil(len(cells) / columns)
    pitch = CELL_PX + GAP_PX
    sheet = np.full((rows * pitch + GAP_PX, columns * pitch + GAP_PX, 3), PAPER, np.uint8)
    for place, cell in enumerate(cells):
        row, column = divmod(place, columns)
        top = GAP_PX + row * pitch + (CELL_PX - cell.shape[0]) // 2
        left = GAP_PX + column * pitch + (CELL_PX - cell.shape[1]) // 2
        sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet
