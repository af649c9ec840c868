"""COCO RLE: pycocotools' pixels, bounds, IoU and polygons."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pycocotools import mask as coco

from maskserve.imaging.rle import (
    decode_each_inside,
    decode_inside,
    decode_rle,
    encode_rle,
    rle_bounds,
    rle_iou,
    rle_to_polygons,
)
from maskserve.protos.types import MaskRle

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))


@settings(max_examples=150, deadline=None)
@given(masks)
def test_rle_round_trip(mask: NDArray[np.bool_]) -> None:
    """decode(encode(mask)) is the mask, and its bounds are the mask's."""
    rle = encode_rle(mask)
    assert rle.size == mask.shape
    np.testing.assert_array_equal(decode_rle(rle), mask)
    ys, xs = np.nonzero(mask)
    expected = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if mask.any() else None
    x_min, y_min, x_max, y_max = rle_bounds(rle)
    assert (x_min, y_min, x_max, y_max) == expected or (expected is None and x_max == x_min)
    inside, bounds = decode_inside(rle)
    assert bounds == (x_min, y_min, x_max, y_max)
    np.testing.assert_array_equal(inside, mask[y_min:y_max, x_min:x_max] if mask.any() else np.zeros((0, 0)))


@pytest.mark.parametrize("size", [(7, 5), (40, 31), (3, 90), (1, 1)])
def test_an_images_masks_are_decoded_together_as_alone(size: tuple[int, int]) -> None:
    """Each is what `decode_inside` makes of it."""
    rng = np.random.default_rng(0)
    masks = [encode_rle(rng.random(size) < share) for share in (0.5, 0.0, 0.03, 1.0, 0.5, 0.0)]
    for (pixels, bounds), mask in zip(decode_each_inside(masks), masks, strict=True):
        alone, own_bounds = decode_inside(mask)
        assert bounds == own_bounds == rle_bounds(mask)
        np.testing.assert_array_equal(pixels, alone)
        x_min, y_min, x_max, y_max = bounds
        np.testing.assert_array_equal(pixels, decode_rle(mask)[y_min:y_max, x_min:x_max])


def test_masks_that_are_none_or_broken_or_of_two_images() -> None:
    """Of none there is none; one that is too long by what the next lacks is found."""
    assert list(decode_each_inside([])) == []
    whole = MaskRle((2, 2), "04")
    for counts, match in (("0P", "cut off"), ("05", "do not fill")):
        with pytest.raises(ValueError, match=match):
            list(decode_each_inside([whole, MaskRle((2, 2), counts), MaskRle((2, 2), "03"), whole]))
    with pytest.raises(ValueError, match="different images"):
        list(decode_each_inside([whole, MaskRle((2, 3), "06")]))


@pytest.mark.parametrize("counts", ["", "0", "PPY", "04é", "05", "11111"])
def test_broken_counts_are_an_error(counts: str) -> None:
    """Counts that are cut off or do not fill the image raise ValueError."""
    for decode in (decode_rle, decode_inside):
        with pytest.raises(ValueError):
            decode(MaskRle((2, 2), counts))


@pytest.mark.parametrize("counts", ["", "P", "04P", "1/", "PPo"])
def test_counts_that_are_cut_off_do_not_reach_pycocotools(counts: str) -> None:
    """It looks for the rest of a number behind them, and writes there: such processes died later, somewhere else."""
    cut, whole = MaskRle((2, 2), counts), MaskRle((2, 2), "04")
    for read in (rle_bounds, decode_inside, decode_rle, rle_to_polygons):
        with pytest.raises(ValueError, match="cut off"):
            read(cut)
    with pytest.raises(ValueError, match="cut off"):
        rle_iou(whole, cut)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("blur", [0.8, 3, 40])
def test_large_masks_decode_as_with_pycocotools(blur: float) -> None:
    """Runs of several digits and negative differences decode to pycocotools' pixels."""
    noise = cv2.GaussianBlur(np.random.default_rng(3).random((900, 1300), dtype=np.float32), (0, 0), blur)
    rle = encode_rle(noise > np.median(noise))
    expected = coco.decode({"size": [900, 1300], "counts": rle.counts.encode()}).astype(bool)
    np.testing.assert_array_equal(decode_rle(rle), expected)


def test_rle_is_column_major() -> None:
    """COCO's convention: down the first column, then the next, beginning with background."""
    mask = np.array([[0, 1], [1, 1]], bool)
    assert coco.frPyObjects({"size": [2, 2], "counts": [1, 3]}, 2, 2)["counts"].decode() == encode_rle(mask).counts


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.randoms(use_true_random=False))
def test_iou_is_that_of_the_pixels(height: int, width: int, random: st.random.Random) -> None:  # type: ignore[name-defined]
    """IoU over RLE equals IoU over pixels; two empty masks have 0."""
    a, b = (np.array([[random.random() > 0.5 for _ in range(width)] for _ in range(height)]) for _ in range(2))
    union = (a | b).sum()
    expected = (a & b).sum() / union if union else 0
    assert rle_iou(encode_rle(a), encode_rle(b)) == pytest.approx(expected)


def test_iou_of_different_images_is_an_error() -> None:
    """Masks of different sizes are never compared silently."""
    with pytest.raises(ValueError, match="different images"):
        rle_iou(MaskRle((2, 2), "04"), MaskRle((2, 3), "06"))


def test_polygons_outline_the_mask() -> None:
    """Each piece has an outline in image pixels which encloses nearly its area; thin pieces have one too."""
    mask = np.zeros((200, 300), bool)
    mask[20:80, 30:130] = True
    cv2.circle(picture := np.zeros(mask.shape, np.uint8), (220, 120), 40, 1, -1)
    mask |= picture.astype(bool)
    mask[150, 10:60] = True
    polygons = rle_to_polygons(encode_rle(mask))
    assert len(polygons) == 3
    filled = sum(cv2.contourArea(np.array(points, np.float32).reshape(-1, 2)) for points in polygons)
    assert filled == pytest.approx(mask.sum(), rel=0.02)
    square = next(points for points in polygons if len(points) == 8 and max(points) < 140 and min(points) > 15)
    assert min(square[::2]) == pytest.approx(30, abs=0.5)
    assert max(square[::2]) == pytest.approx(130, abs=0.5)
    assert max(square[1::2]) == pytest.approx(80, abs=0.5)


def test_an_empty_mask_has_no_polygon() -> None:
    """No pixel, no outline."""
    assert rle_to_polygons(encode_rle(np.zeros((5, 7), bool))) == []
