"""mask probabilities of a box ─▶ COCO RLE of the whole image; RLE ◀─▶ pixels, polygons, IoU, coverage.

A mask is pasted without computing its pixels: between two of the head's cells a column of the image is linear, so
where it crosses the threshold is known, and these crossings are the runs.

COCO RLE is column-major with size (height, width); counts alternate background, foreground, and start with background.

Shape shorthand: `M` side of the head's mask, `H, W` image, `h, w` the part of it that a box can reach, all in px.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

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
    return _encode_runs(_crossings(columns, down, top, left, size[0]), size)


def encode_rle(mask: NDArray[np.bool_]) -> MaskRle:
    """The RLE of a bool (H, W) mask."""
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return MaskRle((mask.shape[0], mask.shape[1]), encoded["counts"].decode("ascii"))


def decode_rle(mask: MaskRle) -> NDArray[np.bool_]:
    """The mask as bool (H, W), in column-major memory. Raises ValueError when the counts do not fill the size."""
    height, width = mask.size
    (runs,) = _runs([mask.counts])
    if runs.sum() != height * width or runs.min() < 0:
        raise ValueError(f"the counts of an RLE mask do not fill {height} × {width} px")
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return pixels.reshape(width, height).T


def decode_inside(mask: MaskRle) -> tuple[NDArray[np.uint8], tuple[int, int, int, int]]:
    """The mask's pixels within its bounds, and these (see `rle_bounds`): uint8 (h, w), 0 or 1, C-contiguous.

    Of a small object on a large photo that is a fraction of `decode_rle`. Raises ValueError as it does.
    """
    return next(decode_each_inside([mask]))


def decode_each_inside(masks: Sequence[MaskRle]) -> Iterator[tuple[NDArray[np.uint8], tuple[int, int, int, int]]]:
    """`decode_inside` of each of an image's masks; their runs are read all at once, pixels made when asked for."""
    if not masks:
        return
    bounds = _bounds(masks)
    for (x_min, y_min, x_max, y_max), runs in zip(bounds, _runs_inside(masks, bounds), strict=True):
        pixels = (np.arange(len(runs), dtype=np.uint8) & 1).repeat(runs)
        inside = cv2.transpose(pixels.reshape(x_max - x_min, y_max - y_min)) if len(pixels) else np.zeros((0, 0))
        yield np.asarray(inside, np.uint8), (x_min, y_min, x_max, y_max)


def _runs_inside(masks: Sequence[MaskRle], bounds: Sequence[tuple[int, int, int, int]]) -> Iterator[NDArray[np.int64]]:
    """The runs of each mask where its columns are only those, and only the rows, within its bounds."""
    height, width = masks[0].size
    if any(mask.size != (height, width) for mask in masks):
        raise ValueError("masks of different images cannot be read together")
    of_masks = _runs([mask.counts for mask in masks])
    lengths = [len(runs) for runs in of_masks]
    *starts, _ = accumulate(lengths, initial=0)
    first = np.array(starts)
    runs = np.concatenate(of_masks)
    ends = np.add.accumulate(runs)  # as if the images lay side by side
    if (ends[first + lengths - 1] != np.arange(1, len(masks) + 1) * height * width).any() or runs.min() < 0:
        raise ValueError(f"the counts of an RLE mask do not fill {height} × {width} px")
    # of each run's mask: its columns before, in all images; its rows; its pixels
    of_mask = [
        (image * width + x_min, y_min, y_max - y_min, (y_max - y_min) * (x_max - x_min))
        for image, (x_min, y_min, x_max, y_max) in enumerate(bounds)
    ]
    before, top, rows, most = np.array(of_mask).repeat(lengths, axis=0).T
    column = ends // height
    row = np.minimum(np.maximum(ends - column * height - top, 0), rows)
    ends = np.minimum(np.maximum((column - before) * rows + row, 0), most)
    inside = ends.copy()
    inside[1:] -= ends[:-1]
    inside[first] = ends[first]
    return (inside[start : start + length] for start, length in zip(starts, lengths, strict=True))


def rle_bounds(mask: MaskRle) -> tuple[int, int, int, int]:
    """(x_min, y_min, x_max, y_max) in px, the last two exclusive; all 0 for an empty mask."""
    (bounds,) = _bounds([mask])
    return bounds


def rle_iou(a: MaskRle, b: MaskRle) -> float:
    """Intersection over union, 0..1, of two masks of the same image; 0 when both are empty."""
    if a.size != b.size:
        raise ValueError(f"masks of different images cannot be compared: {a.size} and {b.size}")
    return float(np.nan_to_num(coco.iou([_to_coco(a)], [_to_coco(b)], [0])[0, 0]))


def rle_to_polygons(mask: MaskRle) -> list[list[float]]:
    """The outer outlines as [x0, y0, x1, y1, …] in original px, one for each connected piece; holes are filled.

    Outlines run a quarter of a pixel inside the pixels' outer edges, so that a piece one pixel wide has an area.
    """
    region, (x_min, y_min, _, _) = decode_inside(mask)
    if not region.size:
        return []
    doubled = cv2.resize(region, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    shift = np.array([x_min, y_min]) + 0.25
    return [(outline.reshape(-1, 2) / 2 + shift).ravel().tolist() for outline in outlines]


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
    by_class = {name: _union_px(of_class) / total_px for name, of_class in masks.items()}
    return Coverage(_union_px([mask for of_class in masks.values() for mask in of_class]) / total_px, by_class)


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


def _encode_runs(starts_and_stops: NDArray[np.int64], size: tuple[int, int]) -> tuple[MaskRle, int]:
    """The RLE whose foreground starts and stops there, and its area in px."""
    height, width = size
    counts = np.diff(starts_and_stops, prepend=0, append=height * width)
    if counts[-1] == 0:  # the image's last pixel is foreground
        counts = counts[:-1]
    encoded = coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return MaskRle(size, encoded["counts"].decode("ascii")), int(counts[1::2].sum())


_MORE_FROM = 48 + 0x20
"""Letters of compressed counts that are digits before others."""
_DIGITS = np.array([(letter - 48) % 32 - 32 * (48 + 0x10 <= letter < _MORE_FROM) for letter in range(256)])
"""What each letter stands for there."""


def _runs(masks: Sequence[str]) -> list[NDArray[np.int64]]:
    """The run lengths in each mask's compressed counts; at least one mask, and one run of each.

    The COCO API's code (cocodataset/cocoapi, maskApi.c): numbers of 5-bit digits, lowest first, bit 5 says that more
    follow, bit 4 of the last is the sign; from the fourth number on, each is the difference to the last but one.
    (pycocotools itself only decodes to pixels, with a warning on numpy 2.)
    """
    if any(not counts or ord(counts[-1]) >= _MORE_FROM for counts in masks):
        raise ValueError("the counts of an RLE mask are cut off")
    letters = np.frombuffer("".join(masks).encode("ascii"), np.uint8)
    (ends,) = (letters < _MORE_FROM).nonzero()
    starts = np.concatenate(([0], ends[:-1] + 1))
    place = np.arange(len(letters)) - starts.repeat(ends - starts + 1)
    numbers = np.add.reduceat(_DIGITS[letters] << 5 * place, starts)
    # numbers before each mask, and all of them
    counted = ends.searchsorted([*accumulate(map(len, masks), initial=0)]).tolist()
    of_masks = [numbers[first:last] for first, last in pairwise(counted)]
    for runs in of_masks:
        np.add.accumulate(runs[1::2], out=runs[1::2])
        np.add.accumulate(runs[2::2], out=runs[2::2])
    return of_masks


def _bounds(masks: Sequence[MaskRle]) -> list[tuple[int, int, int, int]]:
    boxes = coco.toBbox([_to_coco(mask) for mask in masks]).astype(np.intp)
    return [(x_min, y_min, x_min + width, y_min + height) for x_min, y_min, width, height in boxes.tolist()]


def _union_px(masks: Sequence[MaskRle]) -> int:
    return int(coco.area(coco.merge([_to_coco(mask) for mask in masks]))) if masks else 0


def _to_coco(mask: MaskRle) -> Mapping[str, object]:
    return {"size": list(mask.size), "counts": mask.counts.encode("ascii")}
