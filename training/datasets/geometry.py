"""Polygons of one object ▶ cut to the photo ▶ COCO's segmentation, bbox and area. Points are (x, y) px."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import shapely
from pycocotools import mask as coco_mask
from shapely.geometry import Polygon as ShapelyPolygon

Polygon = list[tuple[float, float]]
SMALLEST_AREA_PX = 1e-6
DECIMALS = 2
"""Coordinates are kept to a hundredth of a pixel; what has no area then never had one."""
GRID_PX = 10.0**-DECIMALS
ROUND_CORNERS = 48
"""A circle or ellipse becomes a polygon of so many corners."""


def rounded(outline: Iterable[tuple[float, float]]) -> Polygon:
    return [(round(x, DECIMALS), round(y, DECIMALS)) for x, y in outline]


def has_area(outline: Sequence[tuple[float, float]]) -> bool:
    return len(outline) >= 3 and ShapelyPolygon(rounded(outline)).convex_hull.area > SMALLEST_AREA_PX


def bounding_box(polygons: Sequence[Polygon]) -> tuple[float, float, float, float]:
    """(x, y, width, height) px around all of them."""
    xs, ys = zip(*(point for outline in polygons for point in outline), strict=True)
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def outline_area(outline: Polygon) -> float:
    """px²; where the outline crosses itself, the difference of what lies on both sides."""
    return ShapelyPolygon(outline).area


def pairs(flat: Sequence[float]) -> Polygon:
    """COCO's x0, y0, x1, y1, … as points; a last number without a partner is dropped."""
    return list(zip(flat[::2], flat[1::2], strict=False))


def compressed(rle: Mapping[str, Any], size: Sequence[int]) -> dict[str, Any]:
    """A COCO RLE of either kind as pycocotools takes it."""
    return coco_mask.frPyObjects(dict(rle), *size) if isinstance(rle["counts"], list) else dict(rle)


def clip(outline: Polygon, size: tuple[int, int]) -> list[Polygon]:
    """The parts of a polygon inside a photo of `size` (height, width) that have an area, rounded."""
    height, width = size
    if not has_area(outline):
        return []
    outline = rounded(outline)
    if all(0 <= x <= width and 0 <= y <= height for x, y in outline):
        return [outline]
    cut = shapely.make_valid(ShapelyPolygon(outline)).intersection(shapely.box(0, 0, width, height))
    parts = [part for part in shapely.get_parts(shapely.get_parts(cut)) if part.geom_type == "Polygon"]
    outlines = [rounded(whole.exterior.coords[:-1]) for part in parts for whole in without_holes(part)]
    return [outline for outline in outlines if has_area(outline)]


def without_holes(piece: ShapelyPolygon) -> Iterator[ShapelyPolygon]:
    """Divided by upright cuts through its holes: neither labelme nor COCO polygons have any."""
    if not piece.interiors:
        yield piece
        return
    x_min, y_min, x_max, y_max = piece.bounds
    cut = round(ShapelyPolygon(piece.interiors[0]).centroid.x, DECIMALS)
    for side in (shapely.box(x_min, y_min, cut, y_max), shapely.box(cut, y_min, x_max, y_max)):
        halves = shapely.get_parts(shapely.set_precision(piece.intersection(side), GRID_PX))
        for half in halves:
            if half.geom_type == "Polygon" and half.area > GRID_PX:
                yield from without_holes(half)


def clip_all(outlines: Iterable[Polygon], size: tuple[int, int]) -> tuple[Polygon, ...]:
    """The parts of several polygons inside a photo, see `clip`."""
    return tuple(part for outline in outlines for part in clip(outline, size))


def ellipse(centre: tuple[float, float], radii: tuple[float, float], turn: float = 0.0) -> Polygon:
    """A polygon with its corners on the ellipse; `turn` in radians, clockwise as the y axis points down.

    None (an empty list) when a radius is 0 or less.
    """
    if min(radii) <= 0:
        return []
    corners = []
    for k in range(ROUND_CORNERS):
        t = 2 * math.pi * k / ROUND_CORNERS
        along, across = radii[0] * math.cos(t), radii[1] * math.sin(t)
        x = along * math.cos(turn) - across * math.sin(turn)
        y = along * math.sin(turn) + across * math.cos(turn)
        corners.append((centre[0] + x, centre[1] + y))
    return corners


def rle_geometry(rle: Mapping[str, Any], *, crowd: bool) -> dict[str, Any]:
    """As `coco_geometry`, for a COCO RLE, which stays as it is."""
    packed = compressed(rle, rle["size"])
    bbox = [float(v) for v in coco_mask.toBbox(packed)]
    return {"segmentation": dict(rle), "bbox": bbox, "area": int(coco_mask.area(packed)), "iscrowd": int(crowd)}


def coco_geometry(polygons: Sequence[Polygon], size: tuple[int, int]) -> dict[str, Any]:
    """`segmentation`, `bbox` (XYWH px), `area` (px, overlaps once) and `iscrowd` of one object."""
    flat = [[v for point in rounded(outline) for v in point] for outline in polygons]
    xs, ys = [x for p in flat for x in p[::2]], [y for p in flat for y in p[1::2]]
    area_px = int(coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(flat, *size))))
    bbox = [round(v, DECIMALS) for v in (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))]
    return {"segmentation": flat, "bbox": bbox, "area": area_px, "iscrowd": 0}
