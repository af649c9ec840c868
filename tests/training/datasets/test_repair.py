"""One outline is mended without changing what it goes around."""

from __future__ import annotations

import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon as ShapelyPolygon

from maskserve.training.datasets.findings import Where, polygon_findings
from maskserve.training.datasets.frames import FrameChange, frame_change
from maskserve.training.datasets.geometry import Polygon
from maskserve.training.datasets.repair import repair

SIZE = (60, 80)
coordinates = st.floats(-30, 110, width=32)


def _area(parts: tuple[Polygon, ...]) -> float:
    return float(shapely.unary_union([ShapelyPolygon(part) for part in parts]).area)


def test_a_good_outline_comes_back_point_by_point() -> None:
    outline = [(1.23456, 2.0), (20.0, 3.3), (15.0, 30.0)]
    assert repair(outline, SIZE).parts == (outline,)
    assert repair(outline, SIZE).codes == ()


@pytest.mark.parametrize(
    ("outline", "code", "count", "area"),
    [
        ([(1, 1), (1, 1), (9, 1), (9, 9), (9, 9), (1, 9), (1, 1)], "repeated-points", 1, 64),
        ([(0, 0), (20, 20), (20, 0), (0, 20)], "self-intersecting", 2, 200),
        ([(70, 10), (90, 10), (90, 20), (70, 20)], "outside-image", 1, 100),
        # around a square twice: once is enough
        ([(0, 0), (9, 0), (9, 9), (0, 9), (0, 0), (9, 0), (9, 9), (0, 9)], "self-intersecting", 1, 81),
        # a frame, drawn with a bridge to its hole: the hole stays
        (
            [(0, 0), (30, 0), (30, 30), (0, 30), (0, 0), (10, 10), (10, 20), (20, 20), (20, 10), (10, 10)],
            *("self-intersecting", 2, 800),
        ),
        # a trembling hand's loop of a hundredth
        ([(0, 0), (50, 0), (50, 50), (1, 50), (1, 51), (0, 50.5), (2, 50), (0, 49)], "self-intersecting", 1, None),
    ],
)
def test_a_mistake_is_mended_with_its_area_kept(outline: Polygon, code: str, count: int, area: float | None) -> None:
    repaired = repair(outline, SIZE)
    assert repaired.codes == (code,)
    assert len(repaired.parts) == count
    if area is not None:
        assert _area(repaired.parts) == pytest.approx(area, abs=0.1)


@pytest.mark.parametrize(
    ("outline", "code"),
    [
        ([], "empty-polygon"),
        ([(5, 5), (5, 5), (9, 9), (9, 9)], "empty-polygon"),
        ([(1, 1), (5, 5), (9, 9)], "empty-polygon"),
        ([(100, 5), (120, 5), (110, 20)], "outside-image"),
    ],
)
def test_an_outline_without_anything_to_keep_has_no_parts(outline: Polygon, code: str) -> None:
    repaired = repair(outline, SIZE)
    assert (repaired.parts, repaired.codes) == ((), (code,))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(coordinates, coordinates), max_size=12))
@example([(0.0, -1.0), (0.0, 1.0), (0.0, 0.0), (1.0, 0.0)])  # what is left without its spike lies outside
def test_whatever_is_left_has_nothing_left_to_find(outline: Polygon) -> None:
    for part in repair(outline, SIZE).parts:
        assert list(polygon_findings(part, SIZE, Where("a"), "cat")) == []


@pytest.mark.parametrize(
    ("orientation", "shown"),
    [(5, (20, 10)), (6, (40, 10)), (7, (40, 70)), (8, (20, 70))],
)
def test_labels_of_the_stored_picture_turn_with_it(orientation: int, shown: tuple[float, float]) -> None:
    """A point 10 px from the left and 20 px from the top of 80×60 px."""
    change = frame_change((60, 80), (80, 60), orientation, [(10, 20)])
    assert change is not None
    assert change.points([(10, 20)]) == [shown]


@pytest.mark.parametrize(
    ("stated", "real"), [((300, 400), (600, 800)), ((75, 100), (3000, 4000)), ((100, 133), (3000, 4000))]
)
def test_labels_of_a_smaller_or_larger_copy_are_scaled(stated: tuple[int, int], real: tuple[int, int]) -> None:
    change = frame_change(stated, real, 1, [(10, 10)])
    assert change is not None
    assert change.points([(stated[1], stated[0])]) == [(real[1], real[0])]


def test_a_turned_copy_of_another_size_is_turned_and_scaled() -> None:
    change = frame_change((30, 40), (80, 60), 6, [(5, 5)])
    assert change == FrameChange((30, 40), (80, 60), 6)
    assert change.points([(40, 0)]) == [(60, 80)]


def test_labels_that_fit_the_photo_and_not_the_stated_size_stay_where_they_are() -> None:
    change = frame_change((60, 80), (80, 60), 6, [(10, 75)])
    assert change is not None
    assert change.only_size
    assert change.points([(10, 75)]) == [(10, 75)]


@pytest.mark.parametrize(("real", "orientation"), [((60, 90), 1), ((80, 60), 1), ((80, 60), 3), ((300, 500), 6)])
def test_another_shape_of_photo_is_a_persons_to_look_at(real: tuple[int, int], orientation: int) -> None:
    assert frame_change((60, 80), real, orientation, [(10, 20)]) is None
