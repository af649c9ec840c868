"""Masks: the same pixels as Detectron2, the same bytes as pycocotools."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from maskserve.imaging.masks import coverage, paste_rle
from maskserve.imaging.rle import decode_rle, encode_rle
from maskserve.protos.types import Instance


def blob(rng: np.random.Generator, side: int = 28) -> NDArray[np.float32]:
    """Probabilities as a mask head gives them: smooth, 0..1."""
    smooth = cv2.GaussianBlur(rng.random((side, side), dtype=np.float32), (0, 0), 3)
    return np.asarray((smooth - smooth.min()) / (smooth.max() - smooth.min()), np.float32)


def test_pasting_gives_detectron2s_pixels_and_pycocotools_bytes() -> None:
    """Over many boxes, tiny, huge and partly outside: the RLE is that of Detectron2's full-size mask."""
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("detectron2.layers.mask_ops").paste_masks_in_image
    rng = np.random.default_rng(7)
    compared = 0
    for trial in range(400):
        size = (int(rng.integers(1, 300)), int(rng.integers(1, 300)))
        probs = blob(rng) if trial % 2 else rng.random((28, 28), dtype=np.float32)
        x, y = rng.uniform(-40, size[1] - 1), rng.uniform(-40, size[0] - 1)
        wide, high = rng.uniform(0.01, [1, 10, 100, 400][trial % 4], 2)
        box = np.array([x, y, x + wide, y + high], np.float32)
        if x + wide <= 1 or y + high <= 1:
            continue  # Detectron2 cannot paste a box outside the image
        if trial % 9 == 0:
            box = np.array([0, 0, size[1], size[0]], np.float32)
        full = reference(torch.from_numpy(probs[None]), torch.from_numpy(box[None]), size, 0.5)[0].numpy()
        rle, area_px = paste_rle(probs, box, size)
        assert (rle, area_px) == (encode_rle(full), int(full.sum())), (size, box)
        compared += 1
    assert compared > 200


@pytest.mark.parametrize(
    "box",
    [(-50, -50, -10, -10), (500, 5, 600, 90), (5, 5, 5, 5), (9, 9, 3, 3), (np.nan, 0, 10, 10), (0, 0, np.inf, 10)],
)
def test_senseless_boxes_give_empty_masks(box: tuple[float, ...]) -> None:
    """A box outside the image, without area or not finite has no pixel."""
    rle, area_px = paste_rle(np.ones((28, 28), np.float32), box, (40, 60))
    assert area_px == 0
    assert not decode_rle(rle).any()


def test_a_mask_that_fills_the_image() -> None:
    """Runs go on from column to column, up to the last pixel."""
    rle, area_px = paste_rle(np.ones((28, 28), np.float32), (-20, -20, 80, 60), (40, 60))
    assert area_px == 40 * 60
    assert rle == encode_rle(np.ones((40, 60), bool))


@pytest.mark.parametrize("box", [(0, 0, 4000, 3000), (1000, 800, 2200, 2400)])
def test_a_12_megapixel_photo_is_quick(box: tuple[float, ...]) -> None:
    """A mask over the whole of a 12-megapixel photo takes well under a second."""
    probs = blob(np.random.default_rng(1))
    start = time.perf_counter()
    paste_rle(probs, box, (3000, 4000))
    assert time.perf_counter() - start < 1


def instance(name: str, mask: NDArray[np.bool_] | None) -> Instance:
    rle = None if mask is None else encode_rle(mask)
    return Instance(0, name, 0.9, (0, 0, 1, 1), 0 if mask is None else int(mask.sum()), rle)


def test_coverage_counts_overlaps_once() -> None:
    """Coverage is the union of masks, in all and by class; every class is a key."""
    left, middle = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    left[:, :6] = True
    middle[:, 4:8] = True
    answer = coverage(
        [instance("panda", left), instance("panda", left), instance("tree", middle), instance("tree", None)],
        (10, 10),
        ["panda", "tree", "cloud"],
    )
    assert answer.total == pytest.approx(0.8)
    assert dict(answer.by_class) == pytest.approx({"panda": 0.6, "tree": 0.4, "cloud": 0.0})


def test_coverage_of_nothing() -> None:
    """No instance: zero everywhere."""
    assert coverage([], (10, 10), ["panda"]).by_class == {"panda": 0.0}
