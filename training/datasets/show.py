"""Labelled photos ▶ a seeded choice ▶ each scaled into a cell with its masks drawn ▶ one contact sheet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maskserve.imaging.overlay import draw_overlay
from maskserve.imaging.sheet import fitted, sheet
from maskserve.protos.errors import DataError
from maskserve.training.datasets.photos import decode_photo
from maskserve.training.datasets.samples import Sample, find_samples, to_segmentation

Pixels = NDArray[np.uint8]
CELL_PX = 360


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
    return sheet(cells, CELL_PX)


def _cell(sample: Sample, class_ids: Mapping[str, int]) -> Pixels:
    try:
        photo = decode_photo(sample.read())
    except (DataError, OSError) as error:
        raise DataError(f"{sample.name}: the photo cannot be shown: {error}; see `maskserve data check`.") from None
    small = fitted(photo, CELL_PX)
    segmentation = to_segmentation(sample.masks, photo.shape[:2], small.shape[:2], class_ids)
    return draw_overlay(small, segmentation, legend=False, scores=False)
