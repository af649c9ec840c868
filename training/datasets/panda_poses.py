"""What pandas look like: heads and poses, as parts in the animal's frame of panda_drawing.py.

A pose is a function of `rng`, so that no two animals hold their limbs alike; later parts lie on top.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from maskserve.training.datasets.panda_drawing import Colour, Part, Placement, Rng, ellipse, limb, mirrored, moved

GIANT_PANDA, RED_PANDA = "giant panda", "red panda"

BLACK: Colour = (34, 32, 36)
FAR_BLACK: Colour = (24, 23, 27)
CREAM: Colour = (238, 233, 220)
WHITE: Colour = (250, 247, 240)
RUST: Colour = (186, 84, 34)
LIGHT_RUST: Colour = (212, 128, 66)
PALE_RUST: Colour = (226, 164, 106)
DARK_BROWN: Colour = (52, 30, 24)
FAR_BROWN: Colour = (38, 23, 20)


# ── heads: radius about 0.75, face towards the viewer; `look` (x, y) in -1..1 shifts the face ────────────────────────


def _eyes(x: float, y: float, r: float) -> list[Part]:
    glints = tuple(ellipse(s * x + 0.3 * r, y - 0.35 * r, 0.3 * r, 0.3 * r) for s in (-1, 1))
    return [Part((14, 10, 10), mirrored(ellipse(x, y, r, r)), 0.0), Part((250, 250, 250), glints, 0.0)]


def _smile(y: float, width: float) -> Part:
    """A line down from the nose, and from its end the corners of the mouth up to both sides."""
    down = limb((0, y - 0.14, 0.018), (0, y, 0.018))
    corners = (limb((0, y, 0.018), (s * 0.6 * width, y + 0.035, 0.018), (s * width, y - 0.03, 0.016)) for s in (1, -1))
    return Part((60, 40, 40), (*down, *(outline for corner in corners for outline in corner)), 0.0)


def giant_panda_head(look: tuple[float, float]) -> list[Part]:
    face = [
        Part(BLACK, mirrored(ellipse(0.31, -0.01, 0.165, 0.25, -36)), 0.1),
        *_eyes(0.27, -0.05, 0.075),
        Part(WHITE, (ellipse(0, 0.29, 0.27, 0.2),), 0.25),
        Part((20, 18, 20), (ellipse(0, 0.19, 0.12, 0.075),), 0.1),
        _smile(0.38, 0.15),
    ]
    return [
        Part(BLACK, mirrored(ellipse(0.56, -0.5, 0.25, 0.25)), 0.3),
        Part(CREAM, (ellipse(0, 0, 0.8, 0.66), *mirrored(ellipse(0.46, 0.2, 0.36, 0.36))), 0.4),
        *moved(face, Placement((0.13 * look[0], 0.1 * look[1]), 1.0)),
    ]


def red_panda_head(look: tuple[float, float]) -> list[Part]:
    ear = np.array([(0.28, -0.45), (0.5, -0.86), (0.68, -0.92), (0.78, -0.78), (0.74, -0.4), (0.6, -0.2)], np.float32)
    inner = (ear - ear.mean(axis=0)) * 0.6 + ear.mean(axis=0)
    face = [
        Part(WHITE, mirrored(ellipse(0.29, -0.24, 0.13, 0.09, -15)), 0.05),
        Part(WHITE, mirrored(ellipse(0.56, 0.14, 0.2, 0.24, 20)), 0.15),
        Part((120, 48, 24), tuple(o for s in (1, -1) for o in limb((s * 0.3, 0, 0.09), (s * 0.34, 0.42, 0.1))), 0.0),
        *_eyes(0.28, -0.04, 0.085),
        Part(WHITE, (ellipse(0, 0.27, 0.25, 0.21),), 0.25),
        Part((20, 14, 14), (ellipse(0, 0.17, 0.11, 0.075),), 0.1),
        _smile(0.36, 0.14),
    ]
    return [
        Part(WHITE, mirrored(ear), 0.15),
        Part(DARK_BROWN, mirrored(inner.astype(np.float32)), 0.1),
        Part(RUST, (ellipse(0, 0, 0.78, 0.58), *mirrored(ellipse(0.5, 0.16, 0.32, 0.28))), 0.4),
        Part(LIGHT_RUST, (ellipse(0, -0.28, 0.3, 0.24),), 0.0),
        *moved(face, Placement((0.13 * look[0], 0.1 * look[1]), 1.0)),
    ]


def ringed_tail(start: tuple[float, float], angle_deg: float, bend_deg: float, rings: int = 9) -> list[Part]:
    """A bushy tail of `rings` rings that leaves `start` at an angle and bends a little with each ring."""
    parts, (x, y), angle = [], start, angle_deg
    for ring in range(rings):
        swell = 0.2 + 0.11 * np.sin(np.pi * (ring + 1) / rings)
        nx, ny = x + 0.24 * np.cos(np.deg2rad(angle)), y + 0.24 * np.sin(np.deg2rad(angle))
        colour = DARK_BROWN if ring == rings - 1 else (PALE_RUST if ring % 2 else RUST)
        parts.append(Part(colour, limb((x, y, swell), (nx, ny, swell)), 0.3))
        x, y, angle = nx, ny, angle + bend_deg
    return parts[::-1]


# ── poses ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _head(parts: list[Part], x: float, y: float, scale: float, rng: Rng) -> list[Part]:
    return moved(parts, Placement((x, y), scale, rng.uniform(-16, 16)))


def _look(rng: Rng) -> tuple[float, float]:
    return rng.uniform(-1, 1), rng.uniform(-0.6, 0.8)


def giant_sitting(rng: Rng) -> list[Part]:
    j = rng.uniform(-0.1, 0.1, 6)
    eats = rng.random() < 0.5
    arm = limb((0.66, -0.38, 0.3), (0.95, 0.1, 0.27), (0.5 + j[0], 0.42 + j[1], 0.25))
    other = (
        limb((-0.66, -0.38, 0.3), (-1.0, -0.1, 0.26), (-0.5, -0.42, 0.25))
        if eats
        else limb((-0.66, -0.38, 0.3), (-0.95, 0.1, 0.27), (-0.5 + j[2], 0.42 + j[3], 0.25))
    )
    bamboo = [Part((96, 140, 52), limb((-0.95, 0.1, 0.06), (-0.05, -0.75, 0.05)), 0.2)] if eats else []
    return [
        Part(CREAM, (ellipse(0, 0.35, 0.98 + j[4], 1.0),), 0.45),
        Part(BLACK, (ellipse(0, -0.42, 0.86, 0.42),), 0.3),
        Part(BLACK, limb((0.5, 1.02, 0.36), (0.98 + j[5], 1.2, 0.34)) + limb((-0.5, 1.02, 0.36), (-0.98, 1.2, 0.34))),
        Part((88, 74, 74), mirrored(ellipse(1.03, 1.2, 0.2, 0.24)), 0.2),
        *_head(giant_panda_head(_look(rng)), j[0], -1.02, 0.95, rng),
        *bamboo,
        Part(BLACK, arm + other),
    ]


def giant_walking(rng: Rng) -> list[Part]:
    step, droop = rng.uniform(-0.25, 0.25, 2), rng.uniform(-0.25, 0.35)
    return [
        Part(FAR_BLACK, limb((0.62, 0.3, 0.28), (0.55 - step[0], 1.1, 0.24)), 0.2),
        Part(FAR_BLACK, limb((-0.7, 0.3, 0.3), (-0.62 - step[1], 1.1, 0.25)), 0.2),
        Part(CREAM, (ellipse(-1.3, -0.05, 0.2, 0.16), ellipse(-0.1, 0, 1.28, 0.78)), 0.45),
        Part(BLACK, (ellipse(0.78, 0.02, 0.42, 0.74),), 0.3),
        Part(BLACK, limb((0.85, 0.2, 0.36), (0.85 + step[0], 1.18, 0.27))),
        Part(BLACK, limb((-0.92, 0.3, 0.38), (-0.95 + step[1], 1.18, 0.28))),
        *_head(giant_panda_head(_look(rng)), 1.3, -0.3 + droop, 0.84, rng),
    ]


def giant_lying(rng: Rng) -> list[Part]:
    reach = rng.uniform(-0.15, 0.2, 2)
    return [
        Part(CREAM, (ellipse(0.1, -0.1, 1.35, 0.74),), 0.45),
        Part(BLACK, limb((1.15, 0.2, 0.36), (1.6 + reach[0], 0.45, 0.3))),
        Part(BLACK, (ellipse(-0.35, 0.1, 0.85, 0.56),), 0.3),
        Part(BLACK, limb((-1.0, 0.25, 0.3), (-1.3 - reach[1], 0.6, 0.27)) + limb((0.3, 0.3, 0.3), (0.5, 0.62, 0.27))),
        *_head(giant_panda_head(_look(rng)), -0.38, 0.05, 0.86, rng),
    ]


def giant_climbing(rng: Rng) -> list[Part]:
    j = rng.uniform(-0.12, 0.12, 4)
    return [
        Part(CREAM, (ellipse(0, 0.1, 0.85, 1.05),), 0.45),
        Part(BLACK, (ellipse(0, -0.5, 0.84, 0.42),), 0.3),
        Part(BLACK, limb((0.55, -0.5, 0.3), (0.85, -1.0 + j[0], 0.27), (0.5, -1.45 + j[1], 0.25))),
        Part(BLACK, limb((-0.55, -0.5, 0.3), (-0.95, -0.6, 0.27), (-0.75, -1.05 + j[2], 0.25))),
        Part(BLACK, limb((0.5, 0.75, 0.36), (0.95, 0.9, 0.3), (0.65, 1.35 + j[3], 0.27))),
        Part(BLACK, limb((-0.5, 0.75, 0.36), (-0.9, 1.1, 0.3), (-0.45, 1.5, 0.27))),
        *_head(giant_panda_head(_look(rng)), j[0] - 0.1, -0.95, 0.9, rng),
    ]


def red_sitting(rng: Rng) -> list[Part]:
    j = rng.uniform(-0.1, 0.1, 5)
    return [
        *ringed_tail((0.5, 1.0), rng.uniform(-20, 25), rng.uniform(-24, -8)),
        Part(RUST, (ellipse(0, 0.4, 0.72 + j[0], 0.95),), 0.4),
        Part(DARK_BROWN, (ellipse(0, 0.5, 0.46, 0.72),), 0.1),
        Part(
            DARK_BROWN,
            limb((0.42, 1.05, 0.27), (0.62 + j[1], 1.25, 0.23)) + limb((-0.42, 1.05, 0.27), (-0.62, 1.25, 0.23)),
        ),
        Part(DARK_BROWN, limb((0.52, -0.1, 0.22), (0.55, 0.35, 0.2), (0.25 + j[2], 0.72 + j[3], 0.18))),
        Part(DARK_BROWN, limb((-0.52, -0.1, 0.22), (-0.55, 0.35, 0.2), (-0.25 + j[4], 0.72 - j[3], 0.18))),
        *_head(red_panda_head(_look(rng)), j[4], -0.72, 0.95, rng),
    ]


def red_walking(rng: Rng) -> list[Part]:
    step, droop = rng.uniform(-0.22, 0.22, 2), rng.uniform(-0.2, 0.3)
    return [
        *ringed_tail((-1.05, -0.1), rng.uniform(150, 215), rng.uniform(-10, 14)),
        Part(FAR_BROWN, limb((0.6, 0.2, 0.2), (0.52 - step[0], 0.88, 0.16)), 0.2),
        Part(FAR_BROWN, limb((-0.65, 0.2, 0.22), (-0.55 - step[1], 0.88, 0.16)), 0.2),
        Part(DARK_BROWN, (ellipse(0, 0.12, 1.05, 0.5),), 0.2),
        Part(RUST, (ellipse(0, -0.12, 1.2, 0.5, -3),), 0.35),
        Part(DARK_BROWN, limb((0.82, 0.1, 0.26), (0.84 + step[0], 0.94, 0.18))),
        Part(DARK_BROWN, limb((-0.85, 0.12, 0.28), (-0.86 + step[1], 0.94, 0.18))),
        *_head(red_panda_head(_look(rng)), 1.2, -0.28 + droop, 0.8, rng),
    ]


def red_lying(rng: Rng) -> list[Part]:
    dangle = rng.uniform(-0.2, 0.2, 3)
    return [
        *ringed_tail((-1.1, 0.0), rng.uniform(60, 160), rng.uniform(-6, 10)),
        Part(FAR_BROWN, limb((-0.45, 0.1, 0.22), (-0.4 + dangle[0], 0.85, 0.17)), 0.2),
        Part(RUST, (ellipse(0, 0, 1.25, 0.5, 4),), 0.4),
        Part(DARK_BROWN, limb((-0.85, 0.15, 0.27), (-0.9 + dangle[1], 0.9, 0.18))),
        Part(DARK_BROWN, limb((0.6, 0.15, 0.24), (0.65 + dangle[2], 0.95, 0.18))),
        *_head(red_panda_head(_look(rng)), 1.05, 0.0, 0.84, rng),
    ]


def red_climbing(rng: Rng) -> list[Part]:
    j = rng.uniform(-0.12, 0.12, 4)
    return [
        *ringed_tail((0.1, 1.15), rng.uniform(60, 120), rng.uniform(-12, 12)),
        Part(RUST, (ellipse(0, 0.15, 0.62, 1.05),), 0.4),
        Part(DARK_BROWN, limb((0.4, -0.5, 0.22), (0.72, -0.9 + j[0], 0.19), (0.42, -1.25 + j[1], 0.17))),
        Part(DARK_BROWN, limb((-0.4, -0.5, 0.22), (-0.75, -0.55, 0.19), (-0.6, -0.95 + j[2], 0.17))),
        Part(DARK_BROWN, limb((0.4, 0.85, 0.27), (0.75, 0.95, 0.21), (0.5, 1.3 + j[3], 0.18))),
        Part(DARK_BROWN, limb((-0.4, 0.85, 0.27), (-0.7, 1.15, 0.21), (-0.35, 1.5, 0.18))),
        *_head(red_panda_head(_look(rng)), j[0], -0.85, 0.88, rng),
    ]


Pose = Callable[[Rng], list[Part]]
POSES: dict[str, dict[str, Pose]] = {
    GIANT_PANDA: {"sits": giant_sitting, "walks": giant_walking, "lies": giant_lying, "climbs": giant_climbing},
    RED_PANDA: {"sits": red_sitting, "walks": red_walking, "lies": red_lying, "climbs": red_climbing},
}
