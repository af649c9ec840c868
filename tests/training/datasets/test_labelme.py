"""labelme's shapes become polygons and objects."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from shapely.geometry import Polygon

from maskserve.protos.errors import DataError
from maskserve.training.datasets.labelme import Shape, instances, polygons, read_labelme
from tests.training.datasets.labelme_files import photo_bytes, square, write_labelme

coordinates = st.floats(-500, 500)
points = st.tuples(coordinates, coordinates)


def _shape(kind: str, *points: tuple[float, float], label: str = "cat", **fields: Any) -> Shape:
    return Shape(fields.pop("index", 0), label, kind, points, fields.pop("group_id", None), **fields)


@settings(deadline=None)
@given(points, points)
def test_a_rectangle_is_the_box_between_its_corners_in_any_order(
    one: tuple[float, float], two: tuple[float, float]
) -> None:
    (outline,) = polygons(_shape("rectangle", one, two))
    assert Polygon(outline).area == pytest.approx(abs(one[0] - two[0]) * abs(one[1] - two[1]))


@pytest.mark.parametrize(
    ("kind", "corners"),
    [
        ("rectangle", [(5.0, 5.0), (30.0, 5.0), (30.0, 25.0), (5.0, 25.0)]),
        ("rotation", [(20.0, 5.0), (35.0, 20.0), (20.0, 35.0), (5.0, 20.0)]),
        ("oriented_rectangle", [(20.0, 5.0), (35.0, 20.0), (20.0, 35.0), (5.0, 20.0)]),
    ],
)
def test_a_rectangle_with_four_corners_goes_around_them(kind: str, corners: list[tuple[float, float]]) -> None:
    assert polygons(_shape(kind, *corners)) == [corners]


@settings(deadline=None)
@given(points, st.floats(1, 300), st.floats(0, 2 * math.pi))
def test_a_circle_is_a_polygon_around_its_first_point(centre: tuple[float, float], radius: float, turn: float) -> None:
    edge = centre[0] + radius * math.cos(turn), centre[1] + radius * math.sin(turn)
    (outline,) = polygons(_shape("circle", centre, edge))
    assert Polygon(outline).area == pytest.approx(math.pi * radius**2, rel=0.01)
    assert Polygon(outline).centroid.coords[0] == pytest.approx(centre, abs=1e-3)


def test_a_mask_bitmap_is_traced_where_it_lies() -> None:
    bitmap = np.zeros((11, 21), bool)
    bitmap[2:8, 3:15] = True
    buffer = io.BytesIO()
    Image.fromarray(bitmap).save(buffer, "PNG")
    shape = _shape("mask", (100.0, 50.0), (120.0, 60.0), bitmap=base64.b64encode(buffer.getvalue()).decode())
    (outline,) = polygons(shape)
    assert Polygon(outline).bounds == pytest.approx((103, 52, 115, 58), abs=0.3)


@settings(deadline=None)
@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_an_outline_of_a_mask_never_touches_itself(bitmap: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(bitmap).save(buffer, "PNG")
    outlines = polygons(_shape("mask", (0, 0), (9, 9), bitmap=base64.b64encode(buffer.getvalue()).decode()))
    assert all(Polygon(outline).is_valid for outline in outlines)
    assert bool(outlines) == bitmap.any()


@pytest.mark.parametrize("kind", ["point", "line", "linestrip", "points"])
def test_a_shape_without_area_gives_no_polygon(kind: str) -> None:
    assert polygons(_shape(kind, (1, 1), (5, 5), (9, 1))) == []


@pytest.mark.parametrize("shape", [_shape("polygon", (1, 1), (2, 2)), _shape("circle", (1, 1), (1, 1)), _shape("mask")])
def test_an_empty_shape_gives_no_polygon(shape: Shape) -> None:
    assert polygons(shape) == []


def test_shapes_of_one_label_and_group_are_one_object_and_others_are_not() -> None:
    triangle = ((0.0, 0.0), (9.0, 0.0), (0.0, 9.0))
    shapes = [
        _shape("polygon", *triangle, index=0, group_id=1),
        _shape("polygon", *triangle, index=1, group_id=1, label="dog"),
        _shape("polygon", *triangle, index=2, group_id=1),
        _shape("polygon", *triangle, index=3),
        _shape("polygon", *triangle, index=4),
        _shape("polygon", *triangle, index=5, label="__ignore__"),
        _shape("polygon", *triangle, index=6, label="_background_"),
    ]
    assert [(i.label, i.places) for i in instances(shapes)] == [
        ("cat", (0, 2)),
        ("dog", (1,)),
        ("cat", (3,)),
        ("cat", (4,)),
    ]


def test_back_slashes_of_windows_lead_to_the_photo(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(photo_bytes())
    path = write_labelme(tmp_path / "labels" / "a", [square("cat")], imagePath="..\\photos\\a.jpg")
    (tmp_path / "labels" / "a.jpg").unlink()
    assert read_labelme(path).image_bytes() == photo_bytes()


def test_the_photo_on_disk_goes_before_the_embedded_one(tmp_path: Path) -> None:
    path = write_labelme(tmp_path / "a", [square("cat")], photo=photo_bytes(seed=1), embedded=True)
    assert read_labelme(path).image_bytes() == photo_bytes(seed=1)
    (tmp_path / "a.jpg").write_bytes(photo_bytes(seed=2))
    assert read_labelme(path).image_bytes() == photo_bytes(seed=2)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ({"points": [[0, 0], [1, 0], [1, 1]]}, "shape 0 has no label"),
        (square(" "), "shape 0 has the label ' ', which is no name"),
        (square("") | {"label": None}, "shape 0 has the label None"),
        (square("red\ud800"), r"shape 0 has the label 'red\\ud800'"),
        (square("cat", x=10**400), "shape 0 has no label or no list of"),
        ({"label": "cat", "points": [[0, 0], [1]]}, "shape 0 has no label or no list of"),
        ({"label": "cat", "points": [[0, 0], [1, float("nan")], [1, 1]]}, "not a number"),
        ("cat", "shape 0"),
        (square("cat", group_id=[1]), r"shape 0 \(cat\) has a group_id or mask"),
        (square("cat", mask=7), r"shape 0 \(cat\) has a group_id or mask"),
    ],
)
def test_a_damaged_shape_is_named(tmp_path: Path, shape: Any, says: str) -> None:
    path = write_labelme(tmp_path / "a", [shape])
    with pytest.raises(DataError, match=says) as raised:
        read_labelme(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("height", ["x", float("inf"), float("nan"), [60], pytest.param(10**400, id="long")])
def test_a_stated_size_that_is_none_is_named(tmp_path: Path, height: Any) -> None:
    path = write_labelme(tmp_path / "a", [square("cat")], imageHeight=height)
    with pytest.raises(DataError, match=r"a\.json: its imageHeight"):
        read_labelme(path)


@pytest.mark.parametrize("text", ["{", "", "[1]", json.dumps({"shapes": []}), "\x00\xff"])
def test_what_is_no_labelme_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"a\.json"):
        read_labelme(path)


def test_labels_are_kept_without_blanks_around_them(tmp_path: Path) -> None:
    assert read_labelme(write_labelme(tmp_path / "a", [square(" cat ")])).shapes[0].label == "cat"


@pytest.mark.parametrize("name", [None, 7, "a\0.jpg", "\ud800.jpg"])
def test_an_image_path_that_is_none_is_named(tmp_path: Path, name: Any) -> None:
    path = write_labelme(tmp_path / "a", [square("cat")], imagePath=name)
    with pytest.raises(DataError, match=r"a\.json: its imagePath"):
        read_labelme(path)
