"""Drawn photos of giant pandas and red pandas, labelled as a person would with labelme: JSON beside each JPEG.

    seed ▶ scene (background, animals back to front, foliage) ▶ visible masks ▶ polygons ▶ NNNN.jpg + NNNN.json

Each photo has its own random stream (seed, split, number), so a larger set begins with the smaller one's photos.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from shapely.geometry import Polygon as ShapelyPolygon

from maskserve.imaging.encode import encode_picture
from maskserve.protos.errors import DataError
from maskserve.training.datasets import panda_scenery as scenery
from maskserve.training.datasets.atomic import landing
from maskserve.training.datasets.panda_drawing import Array, Placement, Rng, Sprite, render
from maskserve.training.datasets.panda_poses import GIANT_PANDA, POSES, RED_PANDA

CLASS_NAMES = (GIANT_PANDA, RED_PANDA)
SPLITS = ("train", "test")
MIN_VISIBLE = 0.12
"""An animal of which less is to be seen is painted but not labelled, as a person would not recognise it."""
MIN_PIECE = 0.01
"""Pieces and holes smaller than this part of an instance are not outlined."""


@dataclass
class Scene:
    """A canvas and what can still be seen of each labelled animal painted on it."""

    canvas: Array
    animals: list[tuple[str, Array, float]] = field(default_factory=list)
    """Class name, visible alpha (H, W) 0..1, area in px before occlusion."""

    @property
    def size(self) -> tuple[int, int]:
        return self.canvas.shape[0], self.canvas.shape[1]

    def paint(self, sprite: Sprite | None, class_name: str | None = None) -> None:
        """Lay a sprite over the canvas; it hides what lies under it of the animals painted before."""
        if sprite is None:
            return
        x, y = sprite.origin
        height, width = sprite.alpha.shape
        window = np.s_[y : y + height, x : x + width]
        through = 1 - sprite.alpha
        self.canvas[window] = self.canvas[window] * through[..., None] + sprite.rgb
        for _, alpha, _ in self.animals:
            alpha[window] *= through
        if class_name is not None:
            alpha = np.zeros(self.size, np.float32)
            alpha[window] = sprite.alpha
            self.animals.append((class_name, alpha, float(sprite.alpha.sum())))


def make_pandas(
    out_dir: Path,
    *,
    train: int,
    test: int,
    seed: int,
    size: tuple[int, int] = (360, 480),
    on_photo: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Write `train` and `test` photos with their labelme JSON into `out_dir/train` and `out_dir/test`.

    Args:
        size: (height, width) of the largest photo; each is 2/3 to 1 of it and one in three is upright.
        on_photo: called with (photos done, photos in all).

    Raises:
        DataError: when `out_dir` has something in it; drawn photos never mix with others.
    """
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise DataError(f"{out_dir} is not an empty folder; name a new one, or remove it first.")
    with landing(out_dir) as staged:
        for split, count in enumerate((train, test)):
            folder = staged / SPLITS[split]
            folder.mkdir()
            for number in range(count):
                rng = np.random.default_rng([seed, split, number])
                _write_photo(folder / f"{number:04}", compose(_photo_size(size, rng), rng), rng)
                on_photo(split * train + number + 1, train + test)


def _photo_size(largest: tuple[int, int], rng: Rng) -> tuple[int, int]:
    scale = rng.choice([2 / 3, 5 / 6, 1.0])
    height, width = round(largest[0] * scale), round(largest[1] * scale)
    return (width, height) if rng.random() < 1 / 3 else (height, width)


def compose(size: tuple[int, int], rng: Rng) -> Scene:
    """Paint one scene of 1 to 4 pandas."""
    background = scenery.BACKGROUNDS[rng.integers(len(scenery.BACKGROUNDS))]
    scene = Scene(background(size, rng))
    count = int(rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))
    in_trees = background is scenery.sky or rng.random() < 0.15
    if in_trees:
        _tree_scene(scene, count, rng)
    else:
        _ground_scene(scene, count, background, rng)
    for _ in range(rng.choice([0, 1, 2, 3], p=[0.4, 0.3, 0.2, 0.1])):
        at = rng.uniform(0, size[1]), rng.uniform(0, size[0])
        scene.paint(scenery.leaves(at, rng.uniform(0.08, 0.22) * size[1], size, rng))
    return scene


def _columns(count: int, width: int, rng: Rng) -> list[float]:
    """Places side by side, in random order, close enough to overlap now and then."""
    slots = (np.arange(count) + rng.uniform(0.25, 0.75, count)) / count
    return list(rng.permutation(slots) * width)


def _ground_scene(scene: Scene, count: int, background: scenery.Background, rng: Rng) -> None:
    height, width = scene.size
    feet_cover = scenery.feet_cover(background)
    unit = min(scene.size) * rng.uniform(0.17, 0.34) / count**0.35
    depths = np.sort(rng.uniform(0.0, 1.0, count))
    for x, depth in zip(_columns(count, width, rng), depths, strict=True):
        name = CLASS_NAMES[rng.integers(2)]
        pose = rng.choice(["sits", "walks", "lies"], p=[0.4, 0.38, 0.22])
        unit_px = unit * (0.65 + 0.45 * depth) * (1.0 if name == GIANT_PANDA else 0.85)
        y = height * (0.58 + 0.24 * depth) + rng.normal(0, 0.03) * height
        rolls = pose == "sits" and rng.random() < 0.12
        angle = rng.choice([-1, 1]) * rng.uniform(60, 110) if rolls else rng.normal(0, 5)
        scenery.shadow(scene.canvas, (x, y + unit_px * 1.1), unit_px * 1.5)
        place = Placement((x, y), unit_px, angle, bool(rng.random() < 0.5))
        scene.paint(render(POSES[name][pose](rng), place, scene.size, rng), name)
        if rng.random() < 0.5:
            at = x + rng.normal(0, 0.5) * unit_px, y + 1.35 * unit_px
            scene.paint(feet_cover(at, unit_px * rng.uniform(0.5, 0.9), scene.size, rng))
        if rng.random() < (0.35 if background is scenery.forest else 0.12):
            scene.paint(scenery.bamboo(x + rng.normal(0, 1.2) * unit_px, 0.07 * unit_px + 1, scene.size, rng))


def _tree_scene(scene: Scene, count: int, rng: Rng) -> None:
    height, width = scene.size
    unit = min(scene.size) * rng.uniform(0.17, 0.28) / count**0.35
    for x in _columns(count, width, rng):
        name = CLASS_NAMES[rng.integers(2)]
        unit_px = unit * rng.uniform(0.8, 1.1) * (1.0 if name == GIANT_PANDA else 0.85)
        y = height * rng.uniform(0.32, 0.68)
        climbs = rng.random() < 0.5
        if climbs:
            scene.paint(scenery.trunk(x, rng.uniform(0.3, 0.5) * unit_px, scene.size, rng))
        else:
            scene.paint(scenery.branch(y + 0.5 * unit_px, 0.2 * unit_px, scene.size, rng))
        place = Placement((x, y), unit_px, rng.normal(0, 8 if climbs else 4), bool(rng.random() < 0.5))
        pose = "climbs" if climbs else "lies"
        scene.paint(render(POSES[name][pose](rng), place, scene.size, rng), name)


# ── labels ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def outlines(alpha: Array) -> list[np.ndarray]:
    """Polygons (P, 2) in px around a visible mask (H, W) 0..1: one for each piece, cut in two where it has a hole."""
    fine = cv2.resize(alpha, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    mask = cv2.morphologyEx((fine > 0.5).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    smallest = max(MIN_PIECE * mask.sum(), 24.0)
    found, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for contour, (_, _, _, parent) in zip(found, tree[0] if tree is not None else (), strict=True):
        if parent >= 0 and cv2.contourArea(contour) > smallest:
            # labelme has no holes: a column of background through the hole leaves simple pieces
            mask[:, int(contour[:, 0, 0].mean())] = 0
    pieces, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    simple = [cv2.approxPolyDP(p, 0.9, True)[:, 0] for p in pieces if cv2.contourArea(p) > smallest]
    return [ring for p in simple if len(p) >= 3 for ring in _untangled((p + 0.5) / 2)]


def _untangled(outline: np.ndarray) -> list[np.ndarray]:
    """The same outline, or its larger parts where it touches itself."""
    polygon = ShapelyPolygon(outline)
    if polygon.is_valid:
        return [outline]
    cleaned = polygon.buffer(0)
    parts = [part for part in getattr(cleaned, "geoms", [cleaned]) if part.area > MIN_PIECE * cleaned.area]
    return [np.asarray(part.exterior.coords)[:-1] for part in parts]


def _shapes(scene: Scene) -> list[dict[str, object]]:
    shapes: list[dict[str, object]] = []
    for number, (class_name, alpha, area_px) in enumerate(scene.animals):
        pieces = outlines(alpha) if alpha.sum() > MIN_VISIBLE * area_px else []
        for piece in pieces:
            shape = {"label": class_name, "points": piece.round(2).tolist(), "shape_type": "polygon", "flags": {}}
            shapes.append({**shape, "group_id": number if len(pieces) > 1 else None, "description": "", "mask": None})
    return shapes


def _write_photo(stem: Path, scene: Scene, rng: Rng) -> None:
    photo = scenery.photograph(scene.canvas, rng)
    quality = int(rng.integers(78, 96))
    stem.with_suffix(".jpg").write_bytes(encode_picture(photo, "jpeg", quality=quality))
    labels: dict[str, object] = {
        "version": "5.5.0",
        "flags": {},
        "shapes": _shapes(scene),
        "imagePath": f"{stem.name}.jpg",
        "imageData": None,
        "imageHeight": scene.size[0],
        "imageWidth": scene.size[1],
    }
    stem.with_suffix(".json").write_text(json.dumps(labels))
