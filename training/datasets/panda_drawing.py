"""Draws furry things: parts (outlines with colours) ─▶ placed ─▶ sprite (pixels with alpha).

An animal's frame: x to the right, y down, unit = about half a body's height, origin = middle of the body. A sprite's
pixels are RGB float32 0..255, premultiplied by alpha; sizes are (height, width).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Colour = tuple[int, int, int]

SUPERSAMPLING = 2
Rng = np.random.Generator


@dataclass(frozen=True)
class Part:
    """Outlines of one colour, each (P, 2) in the animal's frame; `roundness` 0..1 is how much its rim is shaded."""

    colour: Colour
    outlines: tuple[Array, ...]
    roundness: float = 0.35


@dataclass(frozen=True)
class Sprite:
    """Pixels that are laid on a canvas with their top left corner at `origin` (x, y) px."""

    rgb: Array
    alpha: Array
    origin: tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """Animal's frame ─▶ canvas: flipped, scaled by `unit_px`, rotated clockwise, moved to `centre` (x, y) px."""

    centre: tuple[float, float]
    unit_px: float
    angle_deg: float = 0.0
    flip: bool = False

    def __call__(self, points: Array) -> Array:
        angle = np.deg2rad(self.angle_deg)
        cos, sin = np.cos(angle), np.sin(angle)
        x = -points[:, 0] if self.flip else points[:, 0]
        y = points[:, 1]
        turned = np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)
        return (turned * self.unit_px + np.asarray(self.centre)).astype(np.float32)


# ── outlines ────────────────────────────────────────────────────────────────────────────────────────────────────────


def ellipse(x: float, y: float, rx: float, ry: float, angle_deg: float = 0.0) -> Array:
    """(40, 2) outline."""
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([rx * np.cos(t), ry * np.sin(t)], axis=1).astype(np.float32)
    return Placement((x, y), 1.0, angle_deg)(circle)


def limb(*joints: tuple[float, float, float]) -> tuple[Array, ...]:
    """Outlines of a chain of tapered capsules through joints (x, y, radius)."""
    discs = [ellipse(x, y, r, r) for x, y, r in joints]
    return tuple(cv2.convexHull(np.concatenate(pair))[:, 0] for pair in itertools.pairwise(discs))


def mirrored(outline: Array) -> tuple[Array, Array]:
    """The outline and its mirror image across x = 0."""
    return outline, (outline * np.array([-1, 1], np.float32))[::-1].copy()


def moved(parts: Iterable[Part], place: Placement) -> list[Part]:
    return [Part(p.colour, tuple(place(o) for o in p.outlines), p.roundness) for p in parts]


# ── pixels ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def render(
    parts: Iterable[Part], place: Placement, size: tuple[int, int], rng: Rng, *, fur: float = 1.0
) -> Sprite | None:
    """Draw parts, later ones on top, with shaded rims and fur.

    Args:
        size: the canvas; what lies outside is not drawn.
        fur: 0 for smooth things, 1 for animals.
    Returns:
        None when nothing lies on the canvas.
    """
    placed = moved(parts, place)
    corners = np.concatenate([o for p in placed for o in p.outlines])
    margin = 0.1 * place.unit_px + 2
    x0, y0 = np.maximum(np.floor(corners.min(axis=0) - margin), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(corners.max(axis=0) + margin), size[::-1]).astype(int)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    height, width = SUPERSAMPLING * (y1 - y0), SUPERSAMPLING * (x1 - x0)
    rgb = np.zeros((height, width, 3), np.float32)
    alpha = np.zeros((height, width), np.uint8)
    for part in placed:
        _fill(part, rgb, alpha, (x0, y0), place.unit_px)
    if fur:
        rgb, alpha = _furred(rgb, alpha, fur * place.unit_px * SUPERSAMPLING, rng)
    soft = cv2.resize(alpha, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    small = cv2.resize(rgb, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    return Sprite(small, soft, (int(x0), int(y0)))


def _fill(part: Part, rgb: Array, alpha: Array, origin: tuple[int, int], unit_px: float) -> None:
    outlines = [(o - np.asarray(origin)) * SUPERSAMPLING for o in part.outlines]
    corners = np.concatenate(outlines)
    x0, y0 = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(corners.max(axis=0)) + 1, alpha.shape[::-1]).astype(int)
    if x1 <= x0 or y1 <= y0:
        return
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    for outline in outlines:
        cv2.fillPoly(mask, [np.round((outline - (x0, y0)) * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    window = np.s_[y0:y1, x0:x1]
    cv2.bitwise_or(alpha[window], mask, alpha[window])
    colour = np.asarray(part.colour, np.float32)
    if not part.roundness:
        cv2.copyTo(np.broadcast_to(colour, (*mask.shape, 3)).copy(), mask, rgb[window])
        return
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3) / float(0.35 * SUPERSAMPLING * unit_px)
    light = 1 - part.roundness * (1 - np.minimum(depth, 1)) ** 2
    light += part.roundness * 0.25 * (0.5 - np.linspace(0, 1, mask.shape[0], dtype=np.float32))[:, None]
    cv2.copyTo(cv2.merge([light * channel for channel in colour]), mask, rgb[window])


def _furred(rgb: Array, alpha: Array, unit_px: float, rng: Rng) -> tuple[Array, Array]:
    """Strands in the colours, and ragged edges: every pixel is taken from a place a hair's breadth away."""
    height, width = alpha.shape
    noise = rng.standard_normal((height // 2 + 1, width // 2 + 1, 2)).astype(np.float32)
    hairs = cv2.resize(cv2.GaussianBlur(noise, (3, 7), 0), (width, height), interpolation=cv2.INTER_LINEAR)
    reach = float(0.035 * unit_px)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + reach * hairs[..., 0], y + reach * hairs[..., 1]
    ragged = cv2.remap(alpha, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    strands = cv2.remap(rgb, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return strands * (1 + 0.16 * hairs[..., :1]), ragged
