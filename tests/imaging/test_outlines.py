"""Masks become few polygons that fill to the same pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pycocotools import mask as coco
from shapely.geometry import Polygon

from maskserve.imaging.masks import paste_rle
from maskserve.imaging.outlines import CLOSE_ENOUGH, Outline, mask_to_outlines
from maskserve.imaging.rle import decode_rle, encode_rle
from maskserve.protos.types import MaskRle

Mask = NDArray[np.bool_]


def drawn(outlines: list[Outline], size: tuple[int, int]) -> Mask:
    flat = [[v for point in outline for v in point] for outline in outlines]
    return decode_rle(MaskRle(size, coco.merge(coco.frPyObjects(flat, *size))["counts"].decode()))


def iou(outlines: list[Outline], mask: Mask) -> float:
    pixels = drawn(outlines, (mask.shape[0], mask.shape[1]))
    return float((pixels & mask).sum() / (pixels | mask).sum())


def disc(size: tuple[int, int], centre: tuple[float, float], radius: float) -> Mask:
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return np.asarray(np.hypot(x - centre[0], y - centre[1]) < radius)


@settings(deadline=None, max_examples=200)
@given(arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24))))
def test_any_mask_however_ragged_is_kept(mask: Mask) -> None:
    outlines = mask_to_outlines(encode_rle(mask))
    assert bool(outlines) == bool(mask.any())
    if mask.any():
        assert iou(outlines, mask) >= CLOSE_ENOUGH


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 2**32 - 1), st.floats(0.5, 5), st.integers(2, 500), st.integers(2, 500),
    st.floats(-100, 400), st.floats(-100, 400),
)  # fmt: skip
def test_a_models_mask_is_kept_wherever_and_however_large_it_is(
    seed: int, blur: float, width: int, height: int, x: float, y: float
) -> None:
    probs = cv2.GaussianBlur(np.random.default_rng(seed).random((28, 28), np.float32), (0, 0), blur)
    probs = (probs - probs.mean()) / (probs.std() + 1e-6) / 4 + 0.5
    rle, area_px = paste_rle(probs, (x, y, x + width, y + height), (400, 420))
    outlines = mask_to_outlines(rle)
    assert bool(outlines) == bool(area_px)
    if area_px:
        assert iou(outlines, decode_rle(rle)) >= 0.97
    assert all(0 <= px <= 420 and 0 <= py <= 400 for outline in outlines for px, py in outline)


@pytest.mark.parametrize("radius", [10, 50, 190])
def test_a_disc_takes_few_points_and_its_outline_is_off_by_a_pixel_at_most(radius: float) -> None:
    (outline,) = mask_to_outlines(encode_rle(disc((400, 400), (200.3, 199.2), radius)))
    assert 8 <= len(outline) <= 40
    away = np.hypot(*(np.array(Polygon(outline).segmentize(1).exterior.coords) - (200.3, 199.2)).T)
    assert np.abs(away - radius).max() < 2


def test_a_hole_stays_a_hole_between_two_valid_polygons() -> None:
    ring = disc((200, 200), (100, 100), 80) & ~disc((200, 200), (90, 95), 30)
    outlines = mask_to_outlines(encode_rle(ring))
    assert len(outlines) == 2
    assert all(Polygon(outline).is_valid for outline in outlines)
    pixels = drawn(outlines, (200, 200))
    assert not pixels[95, 90]
    assert not (pixels ^ ring)[:, 85:95][disc((200, 200), (90, 95), 25)[:, 85:95]].any()
    assert iou(outlines, ring) > 0.99


def test_a_hole_of_a_few_pixels_in_a_large_mask_is_filled() -> None:
    mask = disc((200, 200), (100, 100), 80)
    mask[100:103, 100:103] = False
    assert len(mask_to_outlines(encode_rle(mask))) == 1


def test_several_pieces_are_several_polygons() -> None:
    mask = disc((100, 200), (40, 50), 30) | disc((100, 200), (150, 50), 30)
    assert len(mask_to_outlines(encode_rle(mask))) == 2


def test_a_mask_over_the_whole_photo_is_a_rectangle() -> None:
    (outline,) = mask_to_outlines(encode_rle(np.ones((40, 60), np.bool_)))
    assert len(outline) == 4
    assert Polygon(outline).bounds == pytest.approx((0, 0, 60, 40), abs=0.25)
