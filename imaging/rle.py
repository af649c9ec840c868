"""COCO RLE ◀─▶ pixels of the whole image or of the mask's bounds; polygons, IoU.

COCO RLE is column-major with size (height, width); counts alternate background, foreground, and start with background.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from maskserve.protos.types import MaskRle

_ZERO, _MORE, _SIGN = 48, 0x20, 0x10
"""In a letter of compressed counts: what is added, the bit for more letters to follow, and the last one's sign."""
_DIGITS = np.array([code % _MORE - _MORE * (_SIGN <= code % 64 < _MORE) for code in range(-_ZERO, 256 - _ZERO)])
"""What each letter stands for there."""


def encode_rle(mask: NDArray[np.bool_]) -> MaskRle:
    """The RLE of a bool (H, W) mask."""
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return MaskRle((mask.shape[0], mask.shape[1]), encoded["counts"].decode("ascii"))


def encode_runs(starts_and_stops: NDArray[np.int64], size: tuple[int, int]) -> tuple[MaskRle, int]:
    """The RLE whose foreground starts and stops there, and its area in px."""
    height, width = size
    counts = np.diff(starts_and_stops, prepend=0, append=height * width)
    if counts[-1] == 0:  # the image's last pixel is foreground
        counts = counts[:-1]
    encoded = coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return MaskRle(size, encoded["counts"].decode("ascii")), int(counts[1::2].sum())


def decode_rle(mask: MaskRle) -> NDArray[np.bool_]:
    """The mask as bool (H, W), in column-major memory. Raises ValueError when the counts do not fill the size."""
    runs = _filling_runs(mask)
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return pixels.reshape(mask.size[::-1]).T


def check_rle(mask: MaskRle) -> None:
    """Raises ValueError when the counts do not fill the size; makes no pixels."""
    _filling_runs(mask)


def _filling_runs(mask: MaskRle) -> NDArray[np.int64]:
    (runs,) = _runs([mask.counts])
    if runs.sum() != mask.size[0] * mask.size[1] or runs.min() < 0:
        raise ValueError(f"the counts of an RLE mask do not fill {mask.size[0]} × {mask.size[1]} px")
    return runs


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


def union_px(masks: Sequence[MaskRle]) -> int:
    """How many pixels any of an image's masks has."""
    return int(coco.area(coco.merge([_to_coco(mask) for mask in masks]))) if masks else 0


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


def _runs(masks: Sequence[str]) -> list[NDArray[np.int64]]:
    """The run lengths in each mask's compressed counts; at least one mask, and one run of each.

    The COCO API's code (cocodataset/cocoapi, maskApi.c): numbers of 5-bit digits, lowest first, bit 5 says that more
    follow, bit 4 of the last is the sign; from the fourth number on, each is the difference to the last but one.
    (pycocotools itself only decodes to pixels, with a warning on numpy 2.)
    """
    for counts in masks:
        _check_end(counts)
    letters = np.frombuffer("".join(masks).encode("ascii"), np.uint8)
    (ends,) = ((letters - _ZERO) & _MORE == 0).nonzero()
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


def _to_coco(mask: MaskRle) -> Mapping[str, object]:
    """As pycocotools takes it. Raises ValueError when the counts are cut off."""
    _check_end(mask.counts)
    return {"size": list(mask.size), "counts": mask.counts.encode("ascii")}


def _check_end(counts: str) -> None:
    """Raises ValueError when it is within a number: pycocotools would look for the rest behind it, and write there."""
    if not counts or (ord(counts[-1]) - _ZERO) & _MORE:
        raise ValueError("the counts of an RLE mask are cut off")
