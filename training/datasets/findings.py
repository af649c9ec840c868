"""What can be wrong with labels: one finding for each place, for a person to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shapely.geometry import Polygon as ShapelyPolygon
from shapely.validation import explain_validity

from maskserve.training.datasets.geometry import has_area

Level = Literal["error", "warning"]
Noun = Literal["shape", "annotation", "region"]
"""What a label is called in labelme, COCO and VIA."""

OUTSIDE_TOLERANCE_PX = 1.0


@dataclass(frozen=True)
class Where:
    """A file, perhaps with a shape's or region's index (labelme, VIA) or an annotation's id (COCO)."""

    file: str
    place: int | None = None
    noun: Noun = "shape"

    def __str__(self) -> str:
        return self.file if self.place is None else f"{self.file}, {self.noun} {self.place}"

    def as_json(self) -> dict[str, Any]:
        return {"file": self.file} | ({} if self.place is None else {self.noun: self.place})


@dataclass(frozen=True)
class Finding:
    level: Level
    code: str
    where: Where
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.message} [{self.code}]"

    @classmethod
    def of_error(cls, error: Exception, code: str, file: str) -> Finding:
        """An exception's text, without the file name it begins with."""
        return cls("error", code, Where(file), str(error).removeprefix(file).lstrip(",: "))

    def as_json(self) -> dict[str, Any]:
        return {"level": self.level, "code": self.code, **self.where.as_json(), "message": self.message}


def polygon_findings(
    points: Sequence[tuple[float, float]], size: tuple[int, int], where: Where, label: str
) -> Iterator[Finding]:
    """Too few points, no area, crossing itself, or outside a photo of `size` (height, width)."""
    if len(points) < 3:
        text = f"the polygon of {label!r} has {len(points)} points and needs 3; draw it again or delete it"
        yield Finding("error", "empty-polygon", where, text)
        return
    if not has_area(points):
        yield Finding("error", "empty-polygon", where, f"the polygon of {label!r} has no area; delete it")
        return
    outline = ShapelyPolygon(points)
    if not outline.is_valid:
        text = f"the polygon of {label!r} crosses or touches itself ({explain_validity(outline)}); move its points"
        yield Finding("warning", "self-intersecting", where, text)
    yield from _outside(outline.bounds, size, where, label)


def _outside(
    bounds: tuple[float, float, float, float], size: tuple[int, int], where: Where, label: str
) -> Iterator[Finding]:
    height, width = size
    if lies_outside(bounds, size):
        text = f"{label!r} lies wholly outside the photo of {width}×{height} px; delete it"
        yield Finding("error", "outside-image", where, text)
        return
    beyond_px = reach_beyond_px(bounds, size)
    if beyond_px > OUTSIDE_TOLERANCE_PX:
        text = f"{label!r} reaches {beyond_px:.0f} px outside the photo of {width}×{height} px; that part is cut off"
        yield Finding("warning", "outside-image", where, text)


def lies_outside(bounds: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    """Whether bounds (x_min, y_min, x_max, y_max) px share nothing with a photo of `size` (height, width)."""
    x_min, y_min, x_max, y_max = bounds
    return x_max <= 0 or x_min >= size[1] or y_max <= 0 or y_min >= size[0]


def reach_beyond_px(bounds: tuple[float, float, float, float], size: tuple[int, int]) -> float:
    """How far bounds stand out over the edge that they cross furthest; negative inside."""
    x_min, y_min, x_max, y_max = bounds
    return max(-x_min, x_max - size[1], -y_min, y_max - size[0])
