"""Fields and palettes: what is painted where, at the picture's edges too."""

from __future__ import annotations

import numpy as np
import pytest

from maskserve.imaging.fonts import font
from maskserve.imaging.letters import INK_FROM, line
from maskserve.imaging.paint import depth, lay, lettered, outlined, plate, write

ORANGE, INK = (255, 140, 0), (24, 26, 30)


def grey() -> np.ndarray:
    return np.full((40, 60, 3), 128, np.uint8)


@pytest.mark.parametrize(("left", "top"), [(-10, -5), (50, 35), (-100, 0), (0, 100), (60, 40), (5, 5)])
def test_a_plate_is_cut_at_the_pictures_edges(left: int, top: int) -> None:
    """Only what lies in the picture is painted, and nothing else."""
    picture, wanted = grey(), grey()
    lay(picture, plate(20, 30, 0), left, top, lettered(ORANGE, INK))
    wanted[max(0, top) : max(0, top + 20), max(0, left) : max(0, left + 30)] = ORANGE
    np.testing.assert_array_equal(picture, wanted)


def test_a_plates_corners_are_round_and_letters_leave_them_so() -> None:
    """The corner pixel stays the picture's, whatever is written."""
    field = plate(20, 50, 6)
    write(field, line("jj", font(15, "jj")), 0, 10)
    picture = grey()
    lay(picture, field, 0, 0, lettered(ORANGE, INK))
    np.testing.assert_array_equal(picture[0, 0], [128] * 3)
    np.testing.assert_array_equal(picture[19, 49], [128] * 3)
    assert (np.abs(picture.astype(int) - INK).sum(axis=2) < 60).any()


def test_a_plate_lets_the_picture_through_and_its_letters_do_not() -> None:
    """Opacity is the plate's, ink is ink."""
    field = np.array([[0, INK_FROM - 1, 255]], np.uint8)
    picture = np.full((1, 3, 3), 200, np.uint8)
    lay(picture, field, 0, 0, lettered((0, 0, 0), (10, 20, 30), 0.75))
    assert picture.tolist() == [[[200] * 3, [50] * 3, [10, 20, 30]]]


def test_a_line_is_as_wide_as_its_font_says() -> None:
    """Digits are rendered alone: a text of pieces has the width of the whole, within rounding."""
    for text in ("giant panda 97%", "12.3%", "7", ""):
        of = font(22, text)
        assert abs(line(text, of).width - of.getlength(text)) < 2


@pytest.mark.parametrize("line_px", [1, 2, 3, 5, 10])
def test_an_outline_is_as_wide_as_its_line_at_any_width(line_px: int) -> None:
    """Across a straight edge: picture, white, the line around the edge, white, and the colour over the picture."""
    inside = np.ones((120, 60), np.uint8)
    field, margin = depth(inside, line_px)
    picture = np.full((*field.shape, 3), 128, np.uint8)
    lay(picture, field, 0, 0, outlined(ORANGE, line_px, 0.42))
    across = picture[len(picture) // 2, : margin + 30].astype(int)
    np.testing.assert_array_equal(across[0], [128] * 3)
    np.testing.assert_allclose(across[-1], 128 * 0.58 + np.array(ORANGE) * 0.42, atol=1)
    drawn = np.flatnonzero(np.abs(across - ORANGE).sum(axis=1) < 100)
    assert line_px - 1 <= len(drawn) <= line_px + 2
    assert abs(drawn.mean() + 0.5 - margin) <= 0.5
    assert across[: drawn[0]].min(axis=1).max() > 150
    assert across[drawn[-1] + 1 :].min(axis=1).max() > 150


@pytest.mark.parametrize("line_px", [1, 3, 10])
def test_a_field_reaches_as_far_as_anything_is_drawn(line_px: int) -> None:
    """Its rim is outside, the middle of a large mask inside, and no pixel of the mask is outside."""
    inside = np.ones((90, 90), np.uint8)
    inside[40, :] = 0
    field, margin = depth(inside, line_px)
    assert not np.concatenate([field[0], field[-1], field[:, 0], field[:, -1]]).any()
    assert field[margin + 20, margin + 45] > 250
    assert field[margin:-margin, margin:-margin][inside > 0].min() >= 127
