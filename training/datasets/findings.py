"""What can be wrong with labelled photos, one finding for each place."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from shapely.geometry import Polygon as ShapelyPolygon
from shapely.validation import explain_validity

Level = Literal["error", "warning"]

OUTSIDE_TOLERANCE_PX = 1.0
CLOSE_SPELLING = 0.75
FAR_COMMONER = 5
"""A label is taken for a misspelling when a similar one occurs this many times as often."""


@dataclass(frozen=True)
class Finding:
    """One thing to look at; `place` is a shape's index in a labelme file or an annotation's id in a manifest."""

    level: Level
    code: str
    file: str
    message: str
    place: int | None = None

    def line(self, noun: str = "shape") -> str:
        where = self.file if self.place is None else f"{self.file}, {noun} {self.place}"
        return f"{self.level}: {where}: {self.message} [{self.code}]"


def polygon_findings(
    points: Sequence[tuple[float, float]], size: tuple[int, int], file: str, place: int, label: str
) -> Iterator[Finding]:
    """Too few points, no area, crossing itself, or outside a photo of `size` (height, width)."""
    if len(points) < 3:
        text = f"the polygon of {label!r} has {len(points)} points and needs 3; draw it again or delete it"
        yield Finding("error", "empty-polygon", file, text, place)
        return
    outline = ShapelyPolygon(points)
    if outline.convex_hull.area < 1e-6:
        yield Finding("error", "empty-polygon", file, f"the polygon of {label!r} has no area; delete it", place)
        return
    if not outline.is_valid:
        text = f"the polygon of {label!r} crosses or touches itself ({explain_validity(outline)}); move its points"
        yield Finding("warning", "self-intersecting", file, text, place)
    yield from _outside(points, size, file, place, label)


def _outside(
    points: Sequence[tuple[float, float]], size: tuple[int, int], file: str, place: int, label: str
) -> Iterator[Finding]:
    height, width = size
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if max(xs) <= 0 or min(xs) >= width or max(ys) <= 0 or min(ys) >= height:
        text = f"{label!r} lies wholly outside the photo of {width}×{height} px; delete it"
        yield Finding("error", "outside-image", file, text, place)
        return
    beyond = max(-min(xs), max(xs) - width, -min(ys), max(ys) - height)
    if beyond > OUTSIDE_TOLERANCE_PX:
        text = f"{label!r} reaches {beyond:.0f} px outside the photo of {width}×{height} px; that part is cut off"
        yield Finding("warning", "outside-image", file, text, place)


def misspelt(counts: Mapping[str, int], known: Sequence[str] | None) -> dict[str, str | None]:
    """Suspicious labels ─▶ what was probably meant: all that are not `known`, or rare ones close to a common one."""
    if known is not None:
        return {label: _closest(label, known) for label in counts if label not in known}
    suspects: dict[str, str | None] = {}
    for label, count in counts.items():
        commoner = [other for other, often in counts.items() if other != label and often >= FAR_COMMONER * count]
        meant = _closest(label, commoner)
        if meant is not None:
            suspects[label] = meant
    return suspects


def _closest(label: str, candidates: Iterable[str]) -> str | None:
    folded = {candidate.casefold(): candidate for candidate in candidates}
    close = difflib.get_close_matches(label.casefold(), list(folded), n=1, cutoff=CLOSE_SPELLING)
    return folded[close[0]] if close else None


def label_findings(places: Sequence[tuple[str, int, str]], known: Sequence[str] | None) -> Iterator[Finding]:
    """Unknown or misspelt labels among (file, place, label)."""
    suspects = misspelt(Counter(label for _, _, label in places), known)
    for file, place, label in places:
        if label in suspects:
            meant = f"; did you mean {suspects[label]!r}?" if suspects[label] else ""
            if known is not None:
                yield Finding("error", "unknown-label", file, f"the label {label!r} is not in the list{meant}", place)
            else:
                yield Finding("warning", "misspelt-label", file, f"the label {label!r} is rare{meant}", place)
