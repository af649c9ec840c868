"""A photo with instances of which everything is known: ellipses with soft edges, as a trained mask head gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.models import CLASS_NAMES, SEED

_MASK = 28


@dataclass(frozen=True, eq=False)
class Scene:
    """What a network would have said about a photo."""

    image_rgb: np.ndarray
    """uint8 (H, W, 3)."""
    boxes_xyxy: np.ndarray
    """float32 (N, 4) px."""
    scores: np.ndarray
    """float32 (N,) 0..1, falling."""
    class_ids: np.ndarray
    """int64 (N,)."""
    mask_probs: np.ndarray
    """float32 (N, 28, 28), 0..1."""

    @property
    def size(self) -> tuple[int, int]:
        return int(self.image_rgb.shape[0]), int(self.image_rgb.shape[1])

    def write(self, path: Path) -> Path:
        np.savez(path, **vars(self))
        return path

    @classmethod
    def read(cls, path: Path) -> Scene:
        with np.load(path) as stored:
            return cls(**{name: stored[name] for name in stored.files})


def make_scene(image_rgb: np.ndarray, size: tuple[int, int], count: int) -> Scene:
    """`count` instances on the image at (height, width) px."""
    rng = np.random.default_rng(SEED)
    height, width = size
    sides = rng.uniform(0.15, 0.5, (count, 2)) * min(size)
    corners = rng.uniform(0, 1, (count, 2)) * (np.array([width, height]) - sides)
    return Scene(
        image_rgb=cv2.resize(image_rgb, size[::-1], interpolation=cv2.INTER_CUBIC),
        boxes_xyxy=np.hstack([corners, corners + sides]).astype(np.float32),
        scores=np.linspace(0.99, 0.6, count, dtype=np.float32),
        class_ids=rng.integers(0, len(CLASS_NAMES), count),
        mask_probs=np.stack([_blob(rng) for _ in range(count)]),
    )


def _blob(rng: np.random.Generator) -> np.ndarray:
    """A wavy ellipse: its border lies at 0.5."""
    y, x = (np.mgrid[0:_MASK, 0:_MASK] + 0.5) / _MASK * 2 - 1
    angle = np.arctan2(y, x)
    border = 0.75 + sum(rng.uniform(-0.12, 0.12) * np.cos(k * angle + rng.uniform(0, 6)) for k in (2, 3, 5))
    return (1 / (1 + np.exp(12 * (np.hypot(x, y) - border)))).astype(np.float32)
