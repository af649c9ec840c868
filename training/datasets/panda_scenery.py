"""Draws what is around the pandas: backgrounds, trunks and branches, foliage in front, shadows, and the camera.

Canvases are RGB float32 (H, W, 3), 0..255; sizes are (height, width); every random choice comes from the given `rng`.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from maskserve.training.datasets.panda_drawing import Array, Colour, Part, Placement, Rng, Sprite, ellipse, limb, render

LEAF_GREENS: tuple[Colour, ...] = ((74, 118, 44), (98, 142, 58), (58, 98, 46), (128, 160, 72))
AT_ORIGIN = (0.0, 0.0)


def clouds(size: tuple[int, int], cell_px: float, rng: Rng, octaves: int = 3) -> Array:
    """Smooth noise (H, W) of about unit variance: octaves of random grids, the coarsest with cells of `cell_px`."""
    height, width = size
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        cell = max(cell_px / 2**octave, 1.0)
        grid = rng.standard_normal((int(height / cell) + 2, int(width / cell) + 2)).astype(np.float32)
        total += np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)) / np.float32(1.6**octave)
    return total


def _gradient(size: tuple[int, int], top: Colour, bottom: Colour) -> Array:
    mix = np.linspace(0, 1, size[0], dtype=np.float32)[:, None, None]
    canvas = np.asarray(top, np.float32) * (1 - mix) + np.asarray(bottom, np.float32) * mix
    return np.repeat(canvas, size[1], axis=1)


def _textured(canvas: Array, strength: float, cell_px: float, rng: Rng) -> Array:
    return canvas * (1 + strength * clouds((canvas.shape[0], canvas.shape[1]), cell_px, rng)[..., None])


def _ground(canvas: Array, horizon: int, near: Colour, far: Colour, strength: float, rng: Rng) -> None:
    """Fill below a wavy horizon, grainier towards the viewer."""
    height, width = canvas.shape[:2]
    wave = clouds((1, width), width / 3, rng, 2)[0] * 0.02 * height
    below = np.arange(height)[:, None] > horizon + wave[None]
    ground = _gradient((height, width), far, near)
    ground = _textured(_textured(ground, strength, height / 8, rng), strength * 0.7, 3, rng)
    canvas[below] = ground[below]


def forest(size: tuple[int, int], rng: Rng) -> Array:
    height, width = size
    canvas = _textured(_gradient(size, (150, 178, 128), (54, 84, 44)), 0.16, height / 4, rng)
    for depth in np.sort(rng.uniform(0.15, 1, rng.integers(5, 11))):
        stalk = np.asarray((92, 116, 66) if rng.random() < 0.5 else (88, 72, 54), np.float32)
        x, half = int(rng.uniform(0, width)), max(int(depth * width / 34), 1)
        lean = int(rng.normal(0, width / 25))
        colour = stalk * (0.55 + 0.4 * depth) + (1 - depth) * np.array([60, 78, 52], np.float32)
        corners = np.array([(x - half, height), (x + half, height), (x + lean + half, 0), (x + lean - half, 0)])
        cv2.fillPoly(canvas, [corners.astype(np.int32)], colour.tolist(), cv2.LINE_AA)
    canvas = cv2.GaussianBlur(canvas, (0, 0), height / 160)
    _ground(canvas, int(height * rng.uniform(0.55, 0.78)), (72, 92, 40), (92, 112, 62), 0.14, rng)
    return canvas


def snow(size: tuple[int, int], rng: Rng) -> Array:
    height, width = size
    canvas = _textured(_gradient(size, (176, 196, 218), (226, 232, 238)), 0.03, height / 3, rng)
    horizon = int(height * rng.uniform(0.35, 0.6))
    for x in rng.uniform(0, width, rng.integers(6, 14)):
        tall, half = height * rng.uniform(0.15, 0.42), width * rng.uniform(0.03, 0.07)
        shade = rng.uniform(0.75, 1.2) * np.array([86, 110, 104], np.float32)
        for step in range(4):
            low = horizon + 6 - step * tall * 0.22
            reach = half * (1 - step * 0.2)
            corners = np.array([(x - reach, low), (x + reach, low), (x, low - tall * 0.45)])
            cv2.fillPoly(canvas, [corners.astype(np.int32)], (shade * (1 + 0.12 * step)).tolist(), cv2.LINE_AA)
    canvas = cv2.GaussianBlur(canvas, (0, 0), height / 200)
    _ground(canvas, horizon, (238, 242, 248), (214, 224, 236), 0.025, rng)
    return canvas


def meadow(size: tuple[int, int], rng: Rng) -> Array:
    height, width = size
    canvas = _textured(_gradient(size, (118, 166, 220), (206, 224, 234)), 0.05, height / 3, rng)
    horizon = int(height * rng.uniform(0.2, 0.5))
    hills = clouds((1, width), width / 3, rng, 3)[0] * 0.05 * height
    far = np.arange(height)[:, None] > horizon - 0.06 * height + hills[None]
    canvas[far] = np.asarray((92, 128, 100), np.float32) * rng.uniform(0.8, 1.1)
    canvas = cv2.GaussianBlur(canvas, (0, 0), height / 200)
    _ground(canvas, horizon, (92, 136, 52), (138, 166, 82), 0.09, rng)
    flowers = [(236, 214, 80), (240, 236, 240), (206, 96, 150)]
    for _ in range(rng.integers(0, 50)):
        y = rng.uniform(horizon, height)
        radius = max(int(height / 110 * (y - horizon) / height * 2), 1)
        cv2.circle(canvas, (int(rng.uniform(0, width)), int(y)), radius, flowers[rng.integers(3)], -1, cv2.LINE_AA)
    return canvas


def rocks(size: tuple[int, int], rng: Rng) -> Array:
    height, width = size
    canvas = _textured(_gradient(size, (150, 146, 138), (106, 100, 92)), 0.12, height / 5, rng)
    for y in np.sort(rng.uniform(0, height * 1.05, rng.integers(14, 26))):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        reach = rng.uniform(0.6, 1.1, 9)[:, None] * rng.uniform(0.06, 0.22) * width
        stone = np.stack([np.cos(angles), 0.6 * np.sin(angles)], 1) * reach + (rng.uniform(0, width), y)
        tone = rng.uniform(80, 176) * np.array([1, 0.97, rng.uniform(0.85, 0.96)])
        cv2.fillPoly(
            canvas, [(stone + np.array([0, height / 70])).astype(np.int32)], (tone * 0.55).tolist(), cv2.LINE_AA
        )
        cv2.fillPoly(canvas, [stone.astype(np.int32)], tone.tolist(), cv2.LINE_AA)
    return _textured(cv2.GaussianBlur(canvas, (0, 0), height / 300), 0.07, 4, rng)


def sky(size: tuple[int, int], rng: Rng) -> Array:
    """Into the tree-tops: light with blurred leaves."""
    height, width = size
    top, bottom = [
        ((120, 170, 226), (214, 228, 238)),
        ((214, 196, 178), (240, 222, 196)),
        ((150, 170, 150), (206, 214, 190)),
    ][rng.integers(3)]
    canvas = _textured(_gradient(size, top, bottom), 0.06, height / 3, rng)
    for _ in range(rng.integers(10, 40)):
        green = np.asarray(LEAF_GREENS[rng.integers(len(LEAF_GREENS))]) * rng.uniform(0.8, 1.3)
        centre = int(rng.uniform(0, width)), int(rng.beta(0.7, 1.4) * height)
        axes = int(rng.uniform(0.02, 0.08) * width), int(rng.uniform(0.01, 0.04) * width)
        cv2.ellipse(canvas, (centre, (2 * axes[0], 2 * axes[1]), rng.uniform(0, 180)), green.tolist(), -1, cv2.LINE_AA)
    return _textured(cv2.GaussianBlur(canvas, (0, 0), height / rng.uniform(50, 110)), 0.03, 3, rng)


Background = Callable[[tuple[int, int], Rng], Array]
BACKGROUNDS: tuple[Background, ...] = (forest, snow, meadow, rocks, sky)


# ── things near the pandas ──────────────────────────────────────────────────────────────────────────────────────────


def trunk(x: float, half_px: float, size: tuple[int, int], rng: Rng) -> Sprite | None:
    """A tree trunk from the bottom of the picture to its top."""
    height = size[0]
    lean = rng.normal(0, 0.03 * height)
    tone = rng.uniform(0.8, 1.2)
    bark: Colour = (int(104 * tone), int(82 * tone), int(62 * tone))
    edge = np.linspace(-1.1, 0.1, 9)
    left = np.stack([-half_px * rng.uniform(0.9, 1.15, 9), edge * height], axis=1)
    right = np.stack([half_px * rng.uniform(0.9, 1.15, 9), edge[::-1] * height], axis=1)
    outline = np.concatenate([left, right]).astype(np.float32)
    outline[:, 0] += lean * outline[:, 1] / height
    scaled = (outline / half_px).astype(np.float32)
    return render([Part(bark, (scaled,), 0.5)], Placement((x, height), half_px), size, rng, fur=0.7)


def branch(y: float, half_px: float, size: tuple[int, int], rng: Rng) -> Sprite | None:
    """A branch from one side of the picture to the other."""
    width = size[1] / half_px
    tone = rng.uniform(0.8, 1.2)
    bark: Colour = (int(98 * tone), int(76 * tone), int(56 * tone))
    joints = [
        (x, 0.25 * np.sin(3 * x / width) + rng.normal(0, 0.12), rng.uniform(0.8, 1.1))
        for x in np.linspace(-1, width + 1, 8)
    ]
    return render([Part(bark, limb(*joints), 0.5)], Placement((0, y), half_px), size, rng, fur=0.7)


def bamboo(x: float, half_px: float, size: tuple[int, int], rng: Rng) -> Sprite | None:
    """A stalk with nodes and a few leaves, over the whole height."""
    tall = size[0] / half_px
    parts, tone = [], rng.uniform(0.75, 1.15)
    green: Colour = (int(112 * tone), int(150 * tone), int(64 * tone))
    node: Colour = (int(160 * tone), int(178 * tone), int(100 * tone))
    for y in np.arange(-1, tall + 1, 11.0):
        parts.append(Part(green, (np.array([(-1, y), (1, y), (1, y + 11), (-1, y + 11)], np.float32),), 0.5))
        parts.append(Part(node, (ellipse(0, y, 1.25, 0.5),), 0.0))
    for _ in range(rng.integers(2, 6)):
        parts.append(
            _leaf(
                (0, rng.uniform(0, tall)),
                rng.uniform(8, 14),
                rng.choice([rng.normal(30, 25), rng.normal(150, 25)]),
                rng,
            )
        )
    return render(parts, Placement((x, 0), half_px, rng.normal(0, 4)), size, rng, fur=0)


def _leaf(at: tuple[float, float], length: float, angle_deg: float, rng: Rng) -> Part:
    t = np.linspace(0, 1, 9)
    half = 0.13 * np.sin(np.pi * t**0.8)
    outline = np.concatenate([np.stack([t, half], 1), np.stack([t, -half], 1)[::-1]]).astype(np.float32)
    tone = rng.uniform(0.75, 1.2)
    red, green, blue = LEAF_GREENS[rng.integers(len(LEAF_GREENS))]
    return Part(
        (int(red * tone), int(green * tone), int(blue * tone)), (Placement(at, length, angle_deg)(outline),), 0.2
    )


def leaves(at: tuple[float, float], length_px: float, size: tuple[int, int], rng: Rng) -> Sprite | None:
    """A fan of leaves that hangs into the picture."""
    angle, count = rng.uniform(0, 360), rng.integers(5, 12)
    parts = [_leaf(AT_ORIGIN, rng.uniform(0.6, 1.1), angle + rng.normal(0, 38), rng) for _ in range(count)]
    return render(parts, Placement(at, length_px), size, rng, fur=0)


def tuft(at: tuple[float, float], length_px: float, size: tuple[int, int], rng: Rng) -> Sprite | None:
    """Grass blades that hide feet."""
    parts = [
        _leaf((rng.normal(0, 0.5), 0.1), rng.uniform(0.5, 1.1), rng.normal(-90, 20), rng)
        for _ in range(rng.integers(8, 20))
    ]
    return render(parts, Placement(at, length_px), size, rng, fur=0)


def mound(at: tuple[float, float], length_px: float, size: tuple[int, int], rng: Rng) -> Sprite | None:
    """A heap of snow that hides feet."""
    heaps = tuple(ellipse(rng.normal(0, 0.6), rng.uniform(0, 0.2), rng.uniform(0.4, 0.8), 0.3) for _ in range(4))
    return render([Part((240, 244, 250), heaps, 0.12)], Placement(at, length_px), size, rng, fur=0.3)


def stone(at: tuple[float, float], length_px: float, size: tuple[int, int], rng: Rng) -> Sprite | None:
    """A boulder that hides feet."""
    grey = int(rng.uniform(84, 160))
    heaps = tuple(ellipse(rng.normal(0, 0.4), rng.uniform(0, 0.15), rng.uniform(0.3, 0.6), 0.3) for _ in range(3))
    return render([Part((grey, grey - 3, grey - 10), heaps, 0.5)], Placement(at, length_px), size, rng, fur=0.4)


def shadow(canvas: Array, centre: tuple[float, float], reach_px: float) -> None:
    """Darken the ground under an animal, softly."""
    height, width = canvas.shape[:2]
    across = np.exp(-1.5 * ((np.arange(width, dtype=np.float32) - centre[0]) / reach_px) ** 2)
    along = np.exp(-1.5 * ((np.arange(height, dtype=np.float32) - centre[1]) / (0.28 * reach_px)) ** 2)
    canvas *= (1 - 0.45 * np.outer(along, across)).astype(np.float32)[..., None]


def feet_cover(background: Background) -> Callable[[tuple[float, float], float, tuple[int, int], Rng], Sprite | None]:
    """What hides feet on that ground."""
    if background is snow:
        return mound
    return stone if background is rocks else tuft


# ── the camera ──────────────────────────────────────────────────────────────────────────────────────────────────────


def photograph(canvas: Array, rng: Rng) -> np.ndarray:
    """Light, shade, colour cast, contrast, blur and noise, then uint8 (H, W, 3)."""
    size = canvas.shape[0], canvas.shape[1]
    canvas = canvas * rng.uniform(0.72, 1.15)
    if rng.random() < 0.5:
        dapples = clouds(size, size[0] / rng.uniform(1.5, 4), rng, 2)
        canvas = canvas * (1 - rng.uniform(0.1, 0.35) / (1 + np.exp(-4 * dapples)))[..., None]
    warmth = rng.normal(0, 0.06)
    canvas = canvas * np.array([1 + warmth, 1 + rng.normal(0, 0.02), 1 - warmth], np.float32)
    canvas = 255 * np.clip(canvas / 255, 0, 1) ** rng.uniform(0.8, 1.25)
    sigma = rng.exponential(0.45) if rng.random() < 0.6 else 0.0
    if sigma > 0.2:
        canvas = cv2.GaussianBlur(canvas, (0, 0), min(sigma, 1.6))
    grain = rng.standard_normal(size, np.float32)[..., None] * rng.uniform(1, 9)
    return np.clip(canvas + grain, 0, 255).astype(np.uint8)
