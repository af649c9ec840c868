"""What can be wrong with labels: one finding for each place, for a person to look at."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shapely.geometry import Polygon as ShapelyPolygon
from shapely.validation import explain_validity

from maskserve.training.datasets.geometry import has_area

Level = Literal["error", "warning"]
Noun = Literal["shape", "annotation", "region"]
"""What a label is called in labelme, COCO and VIA."""

OUTSIDE_TOLERANCE_PX = 1.0
CLOSE_SPELLING = 0.8
FAR_COMMONER = 5
"""A label is taken for a misspelling when a similar one occurs this many times as often."""


@dataclass(frozen=True)
class Where:
    """A file, perhaps with a shape's or region's index (labelme, VIA) or an annotation's id (COCO)."""

    file: str
    place: int | None = None
    noun: Noun = "shape"

    def __str__(self) -> str:
        return self.file if self.place is None else f"{self.file}, {self.noun} {self.place}"


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
        return cls("error", code, Where(file), str(error).removeprefix(file).lstrip(": "))

    def as_json(self) -> dict[str, Any]:
        place: dict[str, Any] = {} if self.where.place is None else {self.where.noun: self.where.place}
        return {"level": self.level, "code": self.code, "file": self.where.file, **place, "message": self.message}


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
    x_min, y_min, x_max, y_max = bounds
    height, width = size
    if x_max <= 0 or x_min >= width or y_max <= 0 or y_min >= height:
        text = f"{label!r} lies wholly outside the photo of {width}×{height} px; delete it"
        yield Finding("error", "outside-image", where, text)
        return
    beyond_px = max(-x_min, x_max - width, -y_min, y_max - height)
    if beyond_px > OUTSIDE_TOLERANCE_PX:
        text = f"{label!r} reaches {beyond_px:.0f} px outside the photo of {width}×{height} px; that part is cut off"
        yield Finding("warning", "outside-image", where, text)


def label_findings(places: Sequence[tuple[Where, str]], known: Sequence[str] | None) -> Iterator[Finding]:
    """Labels that are not `known`, or without a list, rare labels that look like a common one."""
    suspects = _misspelt(Counter(label for _, label in places), known)
    for where, label in places:
        if label not in suspects:
            continue
        meant = f"; did you mean {suspects[label]!r}?" if suspects[label] else ""
        if known is None:
            yield Finding("warning", "misspelt-label", where, f"the label {label!r} is rare{meant}")
        else:
            yield Finding("error", "unknown-label", where, f"the label {label!r} is not in the label list{meant}")


def _misspelt(counts: Mapping[str, int], known: Sequence[str] | None) -> dict[str, str | None]:
    """Suspicious label ─▶ what was probably meant."""
    if known is not None:
        return {label: _closest(label, known) for label in counts if label not in known}
    suspects: dict[str, str | None] = {}
    for label, count in counts.items():
        others = [other for other in counts if other != label]
        commoner = [other for other in others if counts[other] >= FAR_COMMONER * count]
        written_otherwise = [other for other in others if _key(other) == _key(label) and counts[other] > count]
        meant = next(iter(written_otherwise), None) or _closest(label, commoner)
        if meant is not None:
            suspects[label] = meant
    return suspects


def _key(label: str) -> str:
    """Case, blanks and punctuation do not make two labels."""
    return re.sub(r"[\W_]+", "", label.casefold())


def _closest(label: str, candidates: Iterable[str]) -> str | None:
    by_key = {_key(candidate): candidate for candidate in candidates}
    close = difflib.get_close_matches(_key(label), list(by_key), n=1, cutoff=CLOSE_SPELLING)
    return by_key[close[0]] if close else None


def duplicate_findings(photos: Iterable[tuple[Where, str, str]]) -> Iterator[Finding]:
    """Photos (where, split, content hash) that lie in more than one split: what is learnt must not be examined."""
    first: dict[str, tuple[Where, str]] = {}
    for where, split, digest in photos:
        other, other_split = first.setdefault(digest, (where, split))
        if other_split != split:
            text = f"the same photo is in {split!r} and in {other_split!r} ({other}); keep it in one split"
            yield Finding("error", "duplicate-photo", where, text)
