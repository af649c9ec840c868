"""Masks of a photo, compiled or not: the bytes of `paste_rle`, which is compared with Detectron2 in test_masks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskserve.imaging.masks import paste_rle
from maskserve.imaging.rle import decode_rle
from maskserve.modeling import compiled
from maskserve.modeling.paste import paste_masks

SENSELESS = [
    (-50, -50, -10, -10),
    (500, 5, 600, 90),
    (5, 5, 5, 5),
    (9, 9, 3, 3),
    (np.nan, 0, 10, 10),
    (0, 0, np.inf, 10),
]


def probabilities(rng: np.random.Generator, kind: str, side: int) -> np.ndarray:
    noise = rng.random((side, side), dtype=np.float32)
    if kind == "smooth":
        noise = cv2.GaussianBlur(noise, (0, 0), 3)
        noise = (noise - noise.min()) / (noise.max() - noise.min())
    return {"noise": noise, "smooth": noise, "hard": np.round(noise), "half": np.full_like(noise, 0.5)}[kind]


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["noise", "smooth", "hard", "half"]),
    side=st.sampled_from([7, 14, 28]),
    reach=st.sampled_from([0.5, 5, 60, 400]),
    whole_numbers=st.booleans(),
)
def test_compiled_masks_are_those_of_numpy(seed: int, kind: str, side: int, reach: float, whole_numbers: bool) -> None:
    """Byte for byte: tiny, huge and partly outside, on the pixels' borders and between them, over the whole image."""
    if not compiled.is_there():
        pytest.skip("numba is not installed")
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(1, 300)), int(rng.integers(1, 300)))
    corner = rng.uniform(-40, 300, (4, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.01, reach, (4, 2))], 1).astype(np.float32)
    boxes[3] = (0, 0, size[1], size[0])
    boxes = np.round(boxes) if whole_numbers else boxes
    probs = np.stack([probabilities(rng, kind, side) for _ in boxes])
    assert paste_masks(probs, boxes, size) == [paste_rle(*one, size) for one in zip(probs, boxes, strict=True)]


@pytest.mark.parametrize("numba", [True, False])
def test_senseless_boxes_give_empty_masks(numba: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A box outside the image, without area or not finite has no pixel, and the one beside it has all of its own."""
    if not numba:
        monkeypatch.setattr(compiled, "is_there", lambda: False)
    boxes = np.array([*SENSELESS, (0, 0, 60, 40)], np.float32)
    *empty, (full, area_px) = paste_masks(np.ones((len(boxes), 28, 28), np.float32), boxes, (40, 60))
    assert [area for _, area in empty] == [0] * len(SENSELESS)
    assert not any(decode_rle(mask).any() for mask, _ in empty)
    assert area_px == decode_rle(full).sum() == 40 * 60


def test_numbers_that_are_none_do_not_spoil_the_rle() -> None:
    probs = np.full((1, 28, 28), np.nan, np.float32)
    probs[0, ::3, ::2] = 1
    ((mask, area_px),) = paste_masks(probs, np.array([[3, 3, 50, 35]], np.float32), (40, 60))
    assert area_px == decode_rle(mask).sum()


def test_a_photo_without_instances() -> None:
    assert paste_masks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), (40, 60)) == []
