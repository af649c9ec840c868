"""A mask ▶ few polygons that a person can correct by hand, and that fill to the same pixels but for a rim.

    RLE ▶ parts without holes ▶ exact outlines ▶ every point left out that can be ▶ polygons of one object

A polygon has no holes, so a part with one is cut in two through it; the halves meet without a gap. Polygons are in px
of the image, pixel k reaching from k to k + 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from maskserve.imaging.rle import decode_inside
from maskserve.protos.types import MaskRle

Pixels = NDArray[np.uint8]
Contour = NDArray[np.int32]
Outline = list[tuple[float, float]]

TOLERANCE_PX = 1.0
TOLERANCE_SHARE = 1 / 500
"""Of the box's diagonal: an outline may be off by this, or by `TOLERANCE_PX` where that is more."""
CLOSE_ENOUGH = 0.97
"""IoU of the polygons with the mask that is always reached, if need be with more points."""
FILLED_SHARE = 0.01
"""The smallest holes are filled as long as they are less than this of the mask together."""


def mask_to_outlines(mask: MaskRle) -> list[Outline]:
    """The polygons of one object, [(x, y), …] each; none for an empty mask.

    Pieces too small for a triangle at the tolerance are dropped; IoU with the mask stays at or above `CLOSE_ENOUGH`.
    """
    region, (x_min, y_min, _, _) = decode_inside(mask)
    if not region.size:
        return []
    exact = list(_exact(_small_holes_filled(region)))
    tolerance_px = max(TOLERANCE_PX, TOLERANCE_SHARE * float(np.hypot(*region.shape)))
    outlines = _simplified(exact, tolerance_px)
    while tolerance_px and _iou(outlines, region) < CLOSE_ENOUGH:
        tolerance_px = tolerance_px / 2 if tolerance_px > 0.25 else 0.0
        outlines = _simplified(exact, tolerance_px)
    return [[(x + x_min, y + y_min) for x, y in outline.tolist()] for outline in outlines]


def _exact(region: Pixels) -> Iterator[Contour]:
    """Outlines of the connected parts, in half pixels, a part with a hole cut in two at the hole's middle column.

    They run a quarter of a pixel inside the pixels' edges, so that a piece one pixel wide has an area.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(region, connectivity=8)
    for k in range(1, count):
        x, y, width, height = stats[k, :4]
        part = np.asarray(labels[y : y + height, x : x + width] == k, np.uint8)
        doubled = cv2.resize(part, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        holes = [contour for contour, (*_, parent) in zip(contours, hierarchy[0], strict=True) if parent >= 0]
        if not holes:
            yield np.asarray(contours[0] + 2 * np.array([x, y]), np.int32)
            continue
        left, _, hole_width, _ = cv2.boundingRect(holes[0])
        cut = (left + hole_width // 2) // 2
        for first, half in ((x, part[:, :cut]), (x + cut, part[:, cut:])):
            yield from (contour + 2 * np.array([first, y], np.int32) for contour in _exact(half))


def _simplified(contours: list[Contour], tolerance_px: float) -> list[NDArray[np.float64]]:
    """Douglas and Peucker's way of leaving out points; (points, 2) each, in px of the region."""
    kept = [cv2.approxPolyDP(contour, 2 * tolerance_px, True)[:, 0] for contour in contours]
    return [points / 2 + 0.25 for points in kept if len(points) >= 3 and cv2.contourArea(points) > 0]


def _iou(outlines: list[NDArray[np.float64]], region: Pixels) -> float:
    if not outlines:
        return 0.0
    drawn = coco.merge(coco.frPyObjects([points.ravel().tolist() for points in outlines], *region.shape))
    return float(coco.iou([drawn], [coco.encode(np.asfortranarray(region))], [0])[0, 0])


def _small_holes_filled(region: Pixels) -> Pixels:
    # the rim is padded, so that all the background around the mask is one component
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - np.pad(region, 1), connectivity=4)
    holes = sorted((int(stats[k, cv2.CC_STAT_AREA]), k) for k in range(1, count) if k != labels[0, 0])
    filled, room_px = region.copy(), FILLED_SHARE * int(region.sum())
    for size_px, k in holes:
        room_px -= size_px
        if room_px < 0:
            break
        filled[labels[1:-1, 1:-1] == k] = 1
    return filled
