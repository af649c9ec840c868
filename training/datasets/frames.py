"""Labels drawn in another frame than the photo's: before its EXIF turn, or at another size.

    stated size, real size, EXIF orientation, points ▶ FrameChange ▶ points in the photo as it is shown

Points are (x, y) px, sizes (height, width) px after EXIF orientation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from maskserve.imaging.header import SIDEWAYS
from maskserve.training.datasets.findings import OUTSIDE_TOLERANCE_PX
from maskserve.training.datasets.geometry import Polygon

Unit = tuple[float, float]
_UPRIGHT: dict[int, Callable[[float, float], Unit]] = {
    5: lambda u, v: (v, u),
    6: lambda u, v: (1 - v, u),
    7: lambda u, v: (1 - v, 1 - u),
    8: lambda u, v: (v, 1 - u),
}
"""EXIF orientation ─▶ where a point of the stored picture is shown; both as shares 0..1 of width and height."""


@dataclass(frozen=True)
class FrameChange:
    """From labels at the size `stated` to the photo of the size `real`."""

    stated: tuple[int, int]
    real: tuple[int, int]
    orientation: int = 1
    only_size: bool = False
    """The points are right already and only the stated size was wrong."""

    def points(self, points: Sequence[tuple[float, float]]) -> Polygon:
        if self.only_size:
            return list(points)
        turn = _UPRIGHT.get(self.orientation, lambda u, v: (u, v))
        shares = (turn(x / self.stated[1], y / self.stated[0]) for x, y in points)
        return [(round(u * self.real[1], 2), round(v * self.real[0], 2)) for u, v in shares]

    def __str__(self) -> str:
        sizes = f"{self.stated[1]}×{self.stated[0]} ▶ {self.real[1]}×{self.real[0]} px"
        if self.only_size:
            return f"the stated size was corrected, {sizes}: the labels fit already"
        how = "turned as the photo's EXIF orientation says" if self.orientation in SIDEWAYS else "scaled"
        return f"the labels were {how}, {sizes}"


def frame_change(
    stated: tuple[int, int], real: tuple[int, int], orientation: int, points: Sequence[tuple[float, float]]
) -> FrameChange | None:
    """What brings labels into the photo's frame, None when sizes do not tell."""
    turned = orientation in SIDEWAYS
    upright = FrameChange(stated, real)
    if turned and stated == real[::-1]:
        change = FrameChange(stated, real, orientation)
    elif _same_aspect(stated, real):
        change = upright
    elif turned and _same_aspect(stated[::-1], real):
        change = FrameChange(stated, real, orientation)
    else:
        return None
    fits_already = not _fit(points, stated) and _fit(points, real)
    return FrameChange(stated, real, only_size=True) if fits_already else change


def _same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Up to a pixel of the smaller one."""
    scale = other[1] / one[1]
    return abs(one[0] * scale - other[0]) <= max(1.0, scale)


def _fit(points: Sequence[tuple[float, float]], size: tuple[int, int]) -> bool:
    beyond = OUTSIDE_TOLERANCE_PX
    return all(x <= size[1] + beyond and y <= size[0] + beyond for x, y in points)
