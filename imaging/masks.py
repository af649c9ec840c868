"""mask probabilities of a box ─▶ COCO RLE of the whole image; RLE ◀─▶ pixels, polygons, IoU, coverage.

Only the box's pixels are ever computed: a full-size mask of a 12-megapixel photo costs more than the network's head.
COCO RLE is column-major with size (height, width); counts alternate background, foreground, and start with
background.

Shape shorthand: `M` side of the head's mask, `H, W` image, `h, w` region of interest, all in px.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

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
    (`grid_sample`, align_corners=False), which is separable, so two thin matrix products over the box do it. Only a
    value within a rounding error of the threshold may fall the other way.

    Args:
        mask_probs: float32 (M, M), 0..1, rows are y.
        box_xyxy: in original px, may reach over the image's edge.
        size: (H, W) of the original image.
    """
    height, width = size
    x_min, y_min, x_max, y_max = np.asarray(box_xyxy, dtype=np.float32)
    left, rows_x = _sampling(x_min, x_max, width, mask_probs.shape[1])
    top, rows_y = _sampling(y_min, y_max, height, mask_probs.shape[0])
    # transposed, (w, h): its C order is the image's column-major order
    inside = rows_x @ (mask_probs.astype(np.float32).T @ rows_y.T) >= np.float32(THRESHOLD)
    return _encode_region(inside, top, left, size)


def encode_rle(mask: NDArray[np.bool_]) -> MaskRle:
    """The RLE of a bool (H, W) mask."""
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return MaskRle((mask.shape[0], mask.shape[1]), encoded["counts"].decode("ascii"))


def decode_rle(mask: MaskRle) -> NDArray[np.bool_]:
    """The mask as bool (H, W), in column-major memory. Raises ValueError when the counts do not fill the size."""
    height, width = mask.size
    runs = _runs(mask.counts)
    if runs.sum() != height * width or runs.min() < 0:
        raise ValueError(f"the counts of an RLE mask do not fill {height} × {width} px")
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return pixels.reshape(width, height).T


def rle_bounds(mask: MaskRle) -> tuple[int, int, int, int]:
    """(x_min, y_min, x_max, y_max) in px, the last two exclusive; all 0 for an empty mask."""
    x_min, y_min, width, height = (int(value) for value in coco.toBbox(_to_coco(mask)))
    return x_min, y_min, x_min + width, y_min + height


def rle_iou(a: MaskRle, b: MaskRle) -> float:
    """Intersection over union, 0..1, of two masks of the same image; 0 when both are empty."""
    if a.size != b.size:
        raise ValueError(f"masks of different images cannot be compared: {a.size} and {b.size}")
    return float(np.nan_to_num(coco.iou([_to_coco(a)], [_to_coco(b)], [0])[0, 0]))


def rle_to_polygons(mask: MaskRle) -> list[list[float]]:
    """The outer outlines as [x0, y0, x1, y1, …] in original px, one for each connected piece; holes are filled.

    Outlines run a quarter of a pixel inside the pixels' outer edges, so that a piece one pixel wide has an area.
    """
    x_min, y_min, x_max, y_max = rle_bounds(mask)
    region = decode_rle(mask)[y_min:y_max, x_min:x_max].astype(np.uint8)
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


def _sampling(start: np.float32, stop: np.float32, length: int, cells: int) -> tuple[int, NDArray[np.float32]]:
    """(first pixel of the region, its weights): float32 (pixels, cells), each row blends two neighbouring cells.

    In float32 and in grid_sample's order of operations, so that ties fall alike.
    """
    if not (np.isfinite(start) and np.isfinite(stop)):
        return 0, np.zeros((0, cells), np.float32)
    first = max(0, int(np.floor(start)) - 1)
    last = min(length, int(np.ceil(stop)) + 1)
    centres = np.arange(first, max(first, last), dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        position = (centres - start) / (stop - start) * np.float32(2) - np.float32(1)
    cell = np.nan_to_num(((position + np.float32(1)) * np.float32(cells) - np.float32(1)) / np.float32(2), nan=-2.0)
    cell = np.clip(cell, -2, cells + 1)
    below = np.floor(cell)
    weights = np.zeros((len(centres), cells), np.float32)
    for index, share in ((below, below + 1 - cell), (below + 1, cell - below)):
        valid = (index >= 0) & (index < cells)
        weights[np.flatnonzero(valid), index[valid].astype(int)] = share[valid]
    return first, weights


def _encode_region(inside: NDArray[np.bool_], top: int, left: int, size: tuple[int, int]) -> tuple[MaskRle, int]:
    """The RLE of an image that is empty but for `inside`, bool (w, h) transposed, at (top, left); and its area."""
    height, width = size
    total = height * width
    starts_and_stops = _changes(inside, height) if inside.size else np.zeros(0, np.int64)
    edges = starts_and_stops + left * height + top
    counts = np.diff(edges, prepend=0, append=total)
    if counts[-1] == 0:  # the image's last pixel is foreground
        counts = counts[:-1]
    encoded = coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return MaskRle(size, encoded["counts"].decode("ascii")), int(counts[1::2].sum())


def _changes(inside: NDArray[np.bool_], height: int) -> NDArray[np.int64]:
    """Where foreground starts and stops in column-major order of columns `height` px high."""
    columns, rows = inside.shape
    # A row of background ends each column, unless columns fill the image and runs go on into the next one
    stride = rows if rows == height else rows + 1
    padded = np.zeros((columns * stride + 1,), np.uint8)
    padded[:-1].reshape(columns, stride)[:, :rows] = inside
    flips = np.flatnonzero(np.diff(padded, prepend=np.uint8(0)))
    return np.asarray(flips // stride * height + flips % stride, np.int64)


def _runs(counts: str) -> NDArray[np.int64]:
    """The run lengths in a compressed RLE, at least one.

    The COCO API's code (cocodataset/cocoapi, maskApi.c): numbers of 5-bit digits, lowest first, bit 5 says that more
    follow, bit 4 of the last is the sign; from the fourth number on, each is the difference to the last but one.
    (pycocotools itself only decodes to pixels, with a warning on numpy 2.)
    """
    code = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((code & 0x20) == 0)
    if not len(ends) or ends[-1] != len(code) - 1:
        raise ValueError("the counts of an RLE mask are cut off")
    starts = np.concatenate(([0], ends[:-1] + 1))
    digit = np.arange(len(code)) - np.repeat(starts, ends - starts + 1)
    runs = np.add.reduceat((code & 0x1F) << 5 * digit, starts)
    runs -= np.where(code[ends] & 0x10, 1 << 5 * (digit[ends] + 1), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return np.asarray(runs, np.int64)


def _union_px(masks: Sequence[MaskRle]) -> int:
    return int(coco.area(coco.merge([_to_coco(mask) for mask in masks]))) if masks else 0


def _to_coco(mask: MaskRle) -> Mapping[str, object]:
    return {"size": list(mask.size), "counts": mask.counts.encode("ascii")}
