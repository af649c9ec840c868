"""mask probabilities of a box ─▶ COCO RLE of the whole image; the masked fraction of an image.

A mask is pasted without computing its pixels: between two of the head's cells a column of the image is linear, so
where it crosses the threshold is known, and these crossings are the runs.

Shape shorthand: `M` side of the head's mask, `H, W` image, `h, w` the part of it that a box can reach, all in px.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from maskserve.imaging.rle import encode_runs, union_px
from maskserve.protos.types import Coverage, Instance, MaskRle

THRESHOLD = 0.5
"""A pixel belongs to the mask from this probability on, as in Detectron2."""


def paste_rle(
    mask_probs: NDArray[np.float32], box_xyxy: Sequence[float] | NDArray[np.float32], size: tuple[int, int]
) -> tuple[MaskRle, int]:
    """One instance's mask in the whole image, and its area in px.

    The same pixels as Detectron2's `paste_masks_in_image`: bilinear sampling with zeros around the mask
    (`grid_sample`, align_corners=False). Only a value within a rounding error of the threshold may fall the other way.

    Args:
        mask_probs: float32 (M, M), 0..1, rows are y.
        box_xyxy: in original px, may reach over the image's edge.
        size: (H, W) of the original image.
    """
    x_min, y_min, x_max, y_max = np.asarray(box_xyxy, dtype=np.float32)
    left, across = _cells(x_min, x_max, size[1], mask_probs.shape[1])
    top, down = _cells(y_min, y_max, size[0], mask_probs.shape[0])
    # (w, M + 2): what each column of the image is at the rows of cells, the zeros around the mask included
    padded = np.zeros((mask_probs.shape[1] + 2, mask_probs.shape[0] + 2), np.float32)
    padded[1:-1, 1:-1] = mask_probs.T
    whole = np.floor(across)
    cell = whole.astype(np.intp) + 1
    share = (across - whole)[:, None]
    columns = np.asarray(padded[cell] * (1 - share) + padded[cell + 1] * share, np.float32)
    return encode_runs(_crossings(columns, down, top, left, size[0]), size)


def coverage(instances: Iterable[Instance], size: tuple[int, int], class_names: Sequence[str]) -> Coverage:
    """The masked fraction of an image, in all and by class; instances without a mask count as nothing.

    Args:
        instances: with masks of the same size.
        size: (H, W) of the image.
        class_names: every class of the model; each is a key of the answer.
    """
    masks: dict[str, list[MaskRle]] = {name: [] for name in class_names}
    for instance in instances:
        if instance.mask_rle:
            masks.setdefault(instance.class_name, []).append(instance.mask_rle)
    total_px = max(1, size[0] * size[1])
    by_class = {name: union_px(of_class) / total_px for name, of_class in masks.items()}
    return Coverage(union_px([mask for of_class in masks.values() for mask in of_class]) / total_px, by_class)


def _cells(start: np.float32, stop: np.float32, length: int, cells: int) -> tuple[int, NDArray[np.float32]]:
    """(first pixel that the box can reach, where this and the following ones lie among the head's cells, -1..cells).

    In float32 and in grid_sample's order of operations, so that ties fall alike.
    """
    if not (np.isfinite(start) and np.isfinite(stop)):
        return 0, np.zeros(0, np.float32)
    first = max(0, int(np.floor(start)) - 1)
    last = min(length, int(np.ceil(stop)) + 1)
    centres = np.arange(first, max(first, last), dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        position = (centres - start) / (stop - start) * np.float32(2) - np.float32(1)
    cell = ((position + np.float32(1)) * np.float32(cells) - np.float32(1)) / np.float32(2)
    # beyond these all is zero; of a number and NaN (a box without an inside), fmax takes the number
    return first, np.fmin(np.fmax(cell, np.float32(-1)), np.nextafter(np.float32(cells), np.float32(0)))


def _crossings(
    columns: NDArray[np.float32], down: NDArray[np.float32], top: int, left: int, height: int
) -> NDArray[np.int64]:
    """Where foreground starts and stops in the column-major order of an image `height` px high, ascending.

    Args:
        columns: float32 (w, M + 2), at cell -1, 0, … M; the first and the last are 0.
        down: float32 (h,) ascending, where the rows lie among the cells.
        top, left: of the first row and column in the image.
    """
    inside = columns >= np.float32(THRESHOLD)
    column, before = np.nonzero(inside[:, 1:] != inside[:, :-1])
    low, high = columns[column, before].astype(np.float64), columns[column, before + 1]
    at = before - 1 + (THRESHOLD - low) / (high - low)
    # the first row on the other side: rising, the threshold itself is inside
    row = np.searchsorted(down, np.where(high >= THRESHOLD, at, np.nextafter(at, np.inf)))
    positions = np.sort((column + left) * height + row + top)
    if (positions[1:] == positions[:-1]).any():
        # a start and a stop at one pixel are no run: a mask thinner than a pixel, or one that goes on in the next
        # column
        positions, count = np.unique(positions, return_counts=True)
        positions = positions[count % 2 == 1]
    return np.asarray(positions, np.int64)
