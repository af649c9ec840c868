"""What is mechanical about one outline: outline ▶ no repeated points ▶ valid ▶ inside the photo ▶ parts without holes.

Points are (x, y) px, sizes (height, width) px. Only what a check would name is touched; a good outline comes back as
it was, point by point.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import shapely
from shapely.geometry import Polygon as ShapelyPolygon

from maskserve.training.datasets.findings import OUTSIDE_TOLERANCE_PX, lies_outside, reach_beyond_px
from maskserve.training.datasets.geometry import GRID_PX, Polygon, has_area, rounded, without_holes

SMALLEST_PART = 0.01
"""Of the outline's area: smaller loops come from a hand that trembled."""
DONE = {
    "repeated-points": "points that repeat the one before were removed",
    "self-intersecting": "redrawn or divided where it crossed or touched itself",
    "outside-image": "cut at the photo's edge",
    "empty-polygon": "a part without an area was dropped",
}
"""Code ─▶ what was done to an outline of which something is left."""


def dropped(codes: Sequence[str]) -> tuple[str, str]:
    """The code and the words for an object of which nothing is left."""
    if "outside-image" in codes:
        return "outside-image", "dropped, because it lay outside the photo"
    return "empty-polygon", "dropped, because it was empty"


@dataclass(frozen=True)
class Repaired:
    """Parts of the outline, none when nothing can be kept, and the codes of what was wrong with it."""

    parts: tuple[Polygon, ...]
    codes: tuple[str, ...] = ()


def repair(outline: Polygon, size: tuple[int, int]) -> Repaired:
    """An outline as valid parts inside a photo of `size`.

    Where it crosses itself, everything that it goes around counts as inside, as a person sees it.
    """
    points = _without_repeats(outline)
    codes = ["repeated-points"] if len(points) < len(outline) else []
    if not has_area(points):
        return Repaired((), ("empty-polygon",))
    shape = ShapelyPolygon(points)
    if not shape.is_valid:
        codes.append("self-intersecting")
        # "structure" keeps what is gone around twice, the other method takes it away
        shape = shapely.make_valid(shape, method="structure", keep_collapsed=False)
    if any(_stands_out(part.bounds, size) for part in shapely.get_parts(shape)):
        codes.append("outside-image")
        shape = shape.intersection(shapely.box(0, 0, size[1], size[0]))
    if not set(codes) - {"repeated-points"}:
        return Repaired((points,), tuple(codes))
    return Repaired(tuple(_parts(shapely.set_precision(shape, GRID_PX))), tuple(codes))


def _stands_out(bounds: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    return lies_outside(bounds, size) or reach_beyond_px(bounds, size) > OUTSIDE_TOLERANCE_PX


def _without_repeats(outline: Polygon) -> Polygon:
    """Without points that equal the one before, the first one's being the last."""
    kept = outline[:1] + [point for before, point in pairwise(outline) if point != before]
    return kept[:-1] if len(kept) > 1 and kept[0] == kept[-1] else kept


def _parts(shape: shapely.Geometry) -> Iterator[Polygon]:
    pieces = [p for p in shapely.get_parts(shapely.get_parts(shape)) if p.geom_type == "Polygon"]
    for piece in pieces:
        if 0 < piece.area >= SMALLEST_PART * shape.area:
            yield from (rounded(whole.exterior.coords[:-1]) for whole in without_holes(piece))
