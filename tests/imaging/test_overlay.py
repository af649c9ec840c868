"""Overlays: what is drawn where, on images of any size."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from maskserve.imaging import letters, paint
from maskserve.imaging.masks import coverage
from maskserve.imaging.overlay import class_colour, draw_overlay, paint_overlay, side_by_side
from maskserve.imaging.rle import encode_rle
from maskserve.protos.types import Instance, ModelInfo, Segmentation


def answer(size: tuple[int, int], *, count: int = 2, masks: bool = True) -> Segmentation:
    """`count` rectangles in a row, each a fifth of the image wide."""
    height, width = size
    instances = []
    for index in range(count):
        mask = np.zeros(size, bool)
        x = index * width // max(1, count)
        mask[height // 4 : height // 2, x : x + max(1, width // 5)] = True
        box = (float(x), height / 4, x + width / 5, height / 2)
        rle = encode_rle(mask) if masks else None
        instances.append(Instance(index % 2, f"class {index % 2}", 0.9, box, int(mask.sum()), rle))
    names = ["class 0", "class 1"]
    return Segmentation(size, tuple(instances), coverage(instances, size, names), ModelInfo("m", "1.0", "resnet50"))


def grey(size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.full((*size, 3), 128, np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (40, 60), (600, 800)])
@pytest.mark.parametrize("count", [0, 1, 40])
@pytest.mark.parametrize("masks", [True, False])
def test_any_image_can_be_drawn_on(size: tuple[int, int], count: int, masks: bool) -> None:
    """Sizes from one pixel up, none to many instances, with and without masks: same shape, new array."""
    image = grey(size)
    picture = draw_overlay(image, answer(size, count=count, masks=masks))
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(image, grey(size))


def test_masks_are_tinted_and_the_rest_is_untouched() -> None:
    """Inside a mask the pixels lean to the class's colour; far from masks and labels nothing changes."""
    size = (600, 800)
    picture = draw_overlay(grey(size), answer(size, count=1), legend=False)
    inside = picture[220, 80].astype(int)
    assert np.abs(inside - class_colour(0)).sum() < np.abs(128 - np.array(class_colour(0))).sum()
    np.testing.assert_array_equal(picture[400:, :], grey(size)[400:, :])


def test_a_picture_can_be_painted_in_place() -> None:
    segmentation, picture = answer((60, 80)), grey((60, 80))
    expected = draw_overlay(picture, segmentation)
    assert np.array_equal(picture, grey((60, 80)))
    assert paint_overlay(picture, segmentation) is picture
    assert np.array_equal(picture, expected)


def test_a_masks_outline_is_drawn_along_its_edge() -> None:
    """Everywhere on the edge of a round mask with a hole there is the line, and further away there is none."""
    size = (600, 800)
    disc = cv2.circle(np.zeros(size, np.uint8), (400, 300), 150, 1, -1)
    disc = cv2.circle(disc, (400, 300), 50, 0, -1)
    rle = encode_rle(disc.astype(bool))
    found = Instance(0, "", 0.9, (250, 150, 551, 451), int(disc.sum()), rle)
    answered = Segmentation(size, (found,), coverage([found], size, [""]), ModelInfo("m", "1.0", "resnet50"))
    picture = draw_overlay(grey(size), answered, legend=False, scores=False)
    edge = cv2.morphologyEx(disc, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    edge[:300] = False  # the label is there
    drawn = np.abs(picture.astype(int) - class_colour(0)).sum(axis=2) < 30
    assert cv2.dilate(drawn.astype(np.uint8), np.ones((3, 3)))[edge].mean() > 0.99
    far = cv2.dilate(edge.astype(np.uint8), np.ones((13, 13))) == 0
    assert not drawn[300:][far[300:]].any()


def test_thin_masks_and_dots_are_drawn() -> None:
    """What is thinner than the outline is all outline: every pixel of it has the class's colour."""
    size = (600, 800)
    thin = np.zeros(size, np.uint8)
    cv2.line(thin, (100, 550), (700, 350), 1, 1)
    thin[400, 50] = 1
    found = Instance(2, "", 0.9, (50, 350, 701, 551), int(thin.sum()), encode_rle(thin.astype(bool)))
    answered = Segmentation(size, (found,), coverage([found], size, [""]), ModelInfo("m", "1.0", "resnet50"))
    picture = draw_overlay(grey(size), answered, legend=False, scores=False)
    assert np.abs(picture[thin > 0].astype(int) - class_colour(2)).sum(axis=1).max() < 60


def test_labels_do_not_cover_each_other() -> None:
    """Three instances of one place have three labels of one size."""
    size = (600, 800)
    box = (200.0, 200.0, 500.0, 500.0)
    instances = tuple(Instance(index, "ab", 0.9, box, 0, None) for index in range(3))
    answered = Segmentation(size, instances, coverage(instances, size, ["ab"]), ModelInfo("m", "1.0", "resnet50"))
    picture = draw_overlay(grey(size), answered, legend=False)
    plates = [(picture == class_colour(index)).all(axis=2)[170:300, 210:240].sum() for index in range(3)]
    assert min(plates) > 400


def test_pictures_drawn_at_the_same_time_are_the_same() -> None:
    """Letters and colours are shared between threads."""
    segmentation = answer((300, 400), count=4)
    alone = draw_overlay(grey((300, 400)), segmentation)
    for kept in (letters.line, letters._rendered, paint.lettered):
        kept.cache_clear()
    with ThreadPoolExecutor(8) as threads:
        pictures = list(threads.map(lambda _: draw_overlay(grey((300, 400)), segmentation), range(32)))
    assert all((picture == alone).all() for picture in pictures)


def test_the_legend_can_be_left_out() -> None:
    """The legend only adds the panel at the bottom left."""
    size = (600, 800)
    with_legend, without = (draw_overlay(grey(size), answer(size), legend=legend) for legend in (True, False))
    changed = np.argwhere((with_legend != without).any(axis=2))
    assert len(changed)
    assert changed[:, 0].min() > 400
    assert changed[:, 1].max() < 400


@pytest.mark.parametrize("name", ["ours brun", "большая панда", "大熊猫", "", "x" * 300])
def test_any_class_name_can_be_drawn(name: str) -> None:
    """Letters beyond ASCII, no letters and far too many letters are drawn as well as the machine's fonts can."""
    segmentation = answer((300, 400), count=1)
    named = replace(segmentation, instances=(replace(segmentation.instances[0], class_name=name),))
    assert draw_overlay(grey((300, 400)), named).shape == (300, 400, 3)


def test_a_wrong_size_is_an_error() -> None:
    """An answer for another image is never drawn."""
    with pytest.raises(ValueError, match="height, width"):
        draw_overlay(grey((10, 20)), answer((20, 10)))


def test_a_class_has_one_colour_everywhere() -> None:
    """Colours depend on the class alone, and neighbours differ."""
    assert class_colour(3) == class_colour(3)
    assert len({class_colour(index) for index in range(8)}) == 8


def test_twelve_megapixels_are_drawn_in_seconds() -> None:
    """A large photo with ten instances is drawn quickly."""
    size = (3000, 4000)
    segmentation = answer(size, count=10)
    start = time.perf_counter()
    draw_overlay(grey(size), segmentation)
    assert time.perf_counter() - start < 4


def test_side_by_side_keeps_order_and_height() -> None:
    """Pictures of any size stand beside each other at one height, in the given order."""
    red = np.full((100, 200, 3), (255, 0, 0), np.uint8)
    blue = np.full((300, 300, 3), (0, 0, 255), np.uint8)
    picture = side_by_side([("a", "first", red), ("b", "second", blue)])
    row = picture[-60]
    assert (row == (255, 0, 0)).all(axis=1).sum() == 200
    assert (row == (0, 0, 255)).all(axis=1).sum() == 100
    assert (
        np.flatnonzero((row == (255, 0, 0)).all(axis=1)).max() < np.flatnonzero((row == (0, 0, 255)).all(axis=1)).min()
    )


def test_side_by_side_shrinks_large_pictures() -> None:
    """Two 12-megapixel pictures make one of a screen's size."""
    big = grey((3000, 4000))
    assert max(side_by_side([("a", "x" * 500, big), ("b", "", big)]).shape) < 3400
