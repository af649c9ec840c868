"""A field of 256 levels + what each level looks like ─▶ laid over a picture, in place: outlined masks, lettered plates.

A field is uint8 (h, w): how far inside of a mask a pixel lies, or how much of it a plate and its letters cover. One
table lookup and one multiplication on uint8 paint it, whatever the palette: outlines cost what plain colour costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import cv2
import numpy as np
from numpy.typing import NDArray

from maskserve.imaging.letters import INK_FROM, Line

Rgb = tuple[int, int, int]
Pixels = NDArray[np.uint8]
Field = NDArray[np.uint8]

_WHITE: Rgb = (255, 255, 255)
_BLURS_TO_END = 1.7
"""Half an outline in deviations of the blur: if more, uint8 is too coarse at its ends; if less, corners are lost."""


@dataclass(frozen=True, eq=False)
class Palette:
    """What each of a field's 256 levels does to the picture below."""

    keep: NDArray[np.uint8]
    """uint8 (256,): how much of the picture stays, 255 is all."""
    paint: NDArray[np.uint8]
    """uint8 (256, 1, 3): what is added."""


def lay(picture: Pixels, field: Field, left: int, top: int, palette: Palette) -> None:
    """Paints the field's part that is inside of the picture, uint8 (H, W, 3), with its top left corner there."""
    region, field = _shared(picture, field, left, top)
    if region.size:
        keep = cv2.LUT(field, palette.keep)
        cv2.multiply(region, cv2.merge((keep, keep, keep)), dst=region, scale=1 / 255)
        cv2.add(region, cv2.applyColorMap(field, palette.paint), dst=region)


def depth(inside: NDArray[np.uint8], line_px: int) -> tuple[Field, int]:
    """How deep in the mask each pixel lies, smoother than its staircase, for `outlined` in the same line width.

    Args:
        inside: uint8 (h, w), 0 or 1.
        line_px: width of the line.

    Returns the field, uint8 (h + 2 p, w + 2 p), and p, the px by which it is wider than the mask on each side.
    """
    first, second = _blur_sides(line_px)
    margin = first  # more than the blur reaches
    mask: Field = np.zeros((inside.shape[0] + 2 * margin, inside.shape[1] + 2 * margin), np.uint8)
    np.multiply(inside, 255, out=mask[margin:-margin, margin:-margin])
    # two boxes are nearly a Gaussian, and cost the same at any size
    smooth = cv2.blur(cv2.blur(mask, (first, first)), (second, second))
    # what is thinner than the blur is drawn as well: no pixel of the mask is outside
    return np.asarray(cv2.max(smooth, mask >> np.uint8(1)), np.uint8), margin


@lru_cache(maxsize=256)
def outlined(colour: Rgb, line_px: int, fill: float) -> Palette:
    """For `depth`: the colour at `fill` opacity inside, along the edge a line of it between two white ones."""
    deviation = math.sqrt(sum(side**2 - 1 for side in _blur_sides(line_px)) / 12)
    inside_px = np.array([deviation * NormalDist().inv_cdf((level + 0.01) / 255.02) for level in range(256)])
    line_end, outline_end = _ends_px(line_px)
    return _palette(
        [
            (fill * np.clip(inside_px + 0.5, 0, 1), colour),
            (np.clip(outline_end - np.abs(inside_px) + 0.5, 0, 1), _WHITE),
            (np.clip(line_end - np.abs(inside_px) + 0.5, 0, 1), colour),
        ]
    )


def plate(height: int, width: int, radius: int) -> Field:
    """A rectangle with round corners to write on, uint8 (height, width)."""
    field = np.full((height, width), INK_FROM - 1, np.uint8)
    corner = _corner(min(radius, height // 2, width // 2))
    if size := len(corner):
        field[:size, :size], field[:size, -size:] = corner, corner[:, ::-1]
        field[-size:, :size], field[-size:, -size:] = corner[::-1], corner[::-1, ::-1]
    return field


def write(field: Field, line: Line, left: int, middle: int) -> None:
    """Writes the line on a plate, in place: from `left` on, at half its height `middle` px from the plate's top."""
    place, ink = _shared(field, line.ink, left - line.overhang, middle - len(line.ink) // 2)
    np.maximum(place, ink, out=place)


@lru_cache(maxsize=64)
def lettered(colour: Rgb, ink: Rgb, opacity: float = 1.0) -> Palette:
    """For `plate`, which is as opaque as that; the letters are."""
    level = np.arange(256)
    letters = np.clip((level - INK_FROM) / (255 - INK_FROM), 0, 1)
    return _palette([(opacity * np.clip(level / (INK_FROM - 1), 0, 1), colour), (letters, ink)])


def _shared(below: NDArray[np.uint8], above: Field, left: int, top: int) -> tuple[NDArray[np.uint8], Field]:
    """The parts of both that lie on each other, as views, where the upper one's corner is at (left, top)."""
    x, y = max(0, left), max(0, top)
    below = below[y : max(0, top + above.shape[0]), x : max(0, left + above.shape[1])]
    return below, above[y - top :, x - left :][: below.shape[0], : below.shape[1]]


def _palette(layers: Sequence[tuple[NDArray[np.float64], Rgb]]) -> Palette:
    """Of (opacity 0..1 of each level, colour), the lowest layer first."""
    keep, paint = np.ones((256, 1)), np.zeros((256, 3))
    for opacity, colour in layers:
        cover = opacity[:, None]
        keep, paint = keep * (1 - cover), paint * (1 - cover) + np.array(colour) * cover
    return Palette(np.rint(keep[:, 0] * 255).astype(np.uint8), np.rint(paint).astype(np.uint8)[:, None])


def _ends_px(line_px: int) -> tuple[float, float]:
    """From the mask's edge to where the line ends, half a pixel late as soft ends look thin, and where white ends."""
    line_end = (line_px + 1) / 2
    return line_end, line_end + max(1.0, line_px / 2)


def _blur_sides(line_px: int) -> tuple[int, int]:
    """Of both boxes, px, odd; a box has the variance (side² - 1) / 12."""
    mean = round(math.sqrt(6) * _ends_px(line_px)[1] / _BLURS_TO_END)
    return mean | 1, (mean - 1) | 1


@lru_cache(maxsize=64)
def _corner(radius: int) -> Field:
    """The top left corner of a plate, uint8 (radius, radius)."""
    from_centre = radius - 0.5 - np.arange(radius)
    cover = np.clip(radius - np.hypot(from_centre, from_centre[:, None]) + 0.5, 0, 1)
    return np.asarray(np.rint(cover * (INK_FROM - 1)), np.uint8)
