"""VIA files give the same manifests as labelme files with the same outlines."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon

from maskserve.protos.errors import ConfigError, DataError
from maskserve.training.datasets.importing import Imported, ImportOptions, import_labels
from maskserve.training.datasets.labels import LabelTable
from maskserve.training.datasets.via import _outline, is_via, read_via
from tests.training.datasets.labelme_files import square, write_labelme
from tests.training.datasets.via_files import polygon, region, via_of_labelme, write_via

SQUARE = [(10, 20), (40, 20), (40, 50), (10, 50)]
ALL_TRAIN = ImportOptions(test_fraction=0)


def _imported(path: Path, out_dir: Path, **options: Any) -> tuple[Imported, dict[str, Any]]:
    imported = import_labels([path], out_dir, ImportOptions(test_fraction=0, **options))
    return imported, json.loads((out_dir / "train.json").read_text())


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("as_dict", [False, True])
def test_the_export_and_the_project_file_with_regions_in_either_form_are_read(
    tmp_path: Path, project: bool, as_dict: bool
) -> None:
    path = tmp_path / "in/via_region_data.json"
    write_via(path, {"a.jpg": [polygon(SQUARE, kind="cat")], "b.jpg": []}, project=project, as_dict=as_dict)
    _, manifest = _imported(tmp_path / "in", tmp_path / "out")
    assert [image["file_name"] for image in manifest["images"]] == ["../in/a.jpg", "../in/b.jpg"]
    (annotation,) = manifest["annotations"]
    assert (annotation["segmentation"], annotation["area"]) == ([[10, 20, 40, 20, 40, 50, 10, 50]], 900)
    assert manifest["categories"] == [{"id": 1, "name": "cat"}]


def test_rectangles_circles_and_ellipses_become_polygons_and_shapes_without_area_are_told(tmp_path: Path) -> None:
    shapes = [
        {"name": "rect", "x": 5, "y": 6, "width": 20, "height": 10},
        {"name": "circle", "cx": 30, "cy": 30, "r": 15},
        {"name": "ellipse", "cx": 40, "cy": 30, "rx": 20, "ry": 10, "theta": 0},
        {"name": "polyline", "all_points_x": [1, 2, 3], "all_points_y": [1, 2, 9]},
        {"name": "line", "x1": 1, "y1": 2, "x2": 5, "y2": 5},
        {"name": "point", "cx": 1, "cy": 2},
        {"name": "circle", "cx": 30, "cy": 30, "r": 0},
    ]
    write_via(tmp_path / "in/via.json", {"a.jpg": [region(shape, kind="cat") for shape in shapes]})
    imported, manifest = _imported(tmp_path / "in/via.json", tmp_path / "out")
    areas = [a["area"] for a in manifest["annotations"]]
    assert areas == pytest.approx([200, np.pi * 15**2, np.pi * 200], rel=0.03)
    assert [(f.code, f.where.place) for f in imported.warnings] == [
        *(("no-area", index) for index in (3, 4, 5)),
        ("empty-polygon", 6),
    ]


@settings(deadline=None)
@given(st.floats(1, 200), st.floats(1, 200), st.floats(-7, 7), st.floats(-50, 50))
def test_an_ellipse_has_its_axes_area_and_turn(rx: float, ry: float, theta: float, cx: float) -> None:
    outline = np.array(_outline({"name": "ellipse", "cx": cx, "cy": 3, "rx": rx, "ry": ry, "theta": theta}))
    assert Polygon(outline).area == pytest.approx(np.pi * rx * ry, rel=0.01)
    away = (outline - (cx, 3)) @ np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    assert np.hypot(away[:, 0] / rx, away[:, 1] / ry) == pytest.approx(np.ones(len(away)))


@pytest.mark.parametrize("value", ["cat", " cat ", {"cat": True}, {"dog": False, "cat": True}])
def test_the_class_is_what_was_typed_or_chosen_in_the_only_attribute(tmp_path: Path, value: Any) -> None:
    write_via(tmp_path / "via.json", {"a.jpg": [polygon(SQUARE, species=value, note="")]})
    assert _imported(tmp_path / "via.json", tmp_path / "out")[0].class_names == ("cat",)


def test_several_attributes_are_listed_with_their_values_and_one_can_be_named(tmp_path: Path) -> None:
    regions = [polygon(SQUARE, species="cat", colour="red"), polygon(SQUARE, species="dog", colour="red")]
    path = write_via(tmp_path / "via.json", {"a.jpg": regions})
    with pytest.raises(DataError, match=r"--via-attribute. There are: species \(cat, dog\); colour \(red\)\."):
        import_labels([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    imported, _ = _imported(path, tmp_path / "out", via_attribute="species")
    assert imported.counts == {"train": {"cat": 1, "dog": 1}}
    with pytest.raises(DataError, match="has no region attribute 'sex'"):
        _imported(path, tmp_path / "out", via_attribute="sex")


def test_a_region_without_a_class_or_with_two_is_left_out_and_told(tmp_path: Path) -> None:
    regions = [polygon(SQUARE), polygon(SQUARE, kind={"cat": True, "dog": True}), polygon(SQUARE, kind="cat")]
    write_via(tmp_path / "via.json", {"a.jpg": regions})
    imported, manifest = _imported(tmp_path / "via.json", tmp_path / "out")
    assert len(manifest["annotations"]) == 1
    assert [(f.code, f.where.place, f.where.noun) for f in imported.warnings] == [
        ("no-class", 0, "region"),
        ("no-class", 1, "region"),
    ]
    assert "cat and dog at once" in imported.warnings[1].message


def test_regions_without_any_attribute_are_all_of_the_one_class_in_the_label_list(tmp_path: Path) -> None:
    path = write_via(tmp_path / "via.json", {"a.jpg": [polygon(SQUARE), polygon(SQUARE)]})
    with pytest.raises(DataError, match=r"no region has an attribute .* --labels"):
        import_labels([path], tmp_path / "out", ALL_TRAIN)
    imported, _ = _imported(path, tmp_path / "out", labels=LabelTable.of_names(["balloon"]))
    assert imported.counts == {"train": {"balloon": 2}}


def test_train_and_val_folders_with_a_via_file_each_keep_their_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_via(tmp_path / "in" / split / "via_region_data.json", {f"{split}.jpg": [polygon(SQUARE, kind="cat")]})
    assert import_labels([tmp_path / "in"], tmp_path / "out").images == {"train": 1, "val": 1}


def test_photos_are_found_in_the_projects_own_folder(tmp_path: Path) -> None:
    photos = {"a.jpg": [polygon(SQUARE, kind="cat")]}
    path = write_via(tmp_path / "in/project.json", photos, project=True, default_filepath="photos/")
    _, manifest = _imported(path, tmp_path / "out")
    assert manifest["images"][0]["file_name"] == "../in/photos/a.jpg"


def test_another_file_than_the_one_that_was_labelled_is_told(tmp_path: Path) -> None:
    path = write_via(tmp_path / "via.json", {"a.jpg": [polygon(SQUARE, kind="cat")]})
    with (tmp_path / "a.jpg").open("ab") as photo:
        photo.write(b"longer")
    imported, _ = _imported(path, tmp_path / "out")
    assert [finding.code for finding in imported.warnings] == ["size-mismatch"]


def test_what_lies_outside_the_photo_is_cut_off(tmp_path: Path) -> None:
    path = write_via(tmp_path / "via.json", {"a.jpg": [polygon([(70, 10), (100, 10), (100, 40), (70, 40)], kind="x")]})
    imported, manifest = _imported(path, tmp_path / "out")
    assert manifest["annotations"][0]["bbox"] == [70, 10, 10, 30]
    assert [finding.code for finding in imported.warnings] == ["outside-image"]


DAMAGED: list[tuple[Any, str]] = [
    ({"shape_attributes": {}, "region_attributes": {}}, "region 0 of a.jpg is damaged"),
    ("cat", "region 0 of a.jpg is damaged"),
    (region({"name": "circle", "cx": 1, "cy": "x", "r": 2}), "region 0 of a.jpg is damaged"),
    (region({"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1]}), "region 0 of a.jpg is damaged"),
    (region({"name": "circle", "cx": 1, "cy": float("nan"), "r": 2}), "not a number"),
    (region({"name": "circle", "cx": 10**400, "cy": 1, "r": 2}), "region 0 of a.jpg is damaged"),
    (polygon([[1, 1], [30, 1], [1, 30]], kind="red\ud800"), "region 0 of a.jpg has an attribute that is no text"),
]


@pytest.mark.parametrize(("damaged", "says"), DAMAGED)
def test_a_damaged_region_is_named_and_nothing_is_written(tmp_path: Path, damaged: Any, says: str) -> None:
    path = write_via(tmp_path / "via.json", {"a.jpg": [damaged]})
    with pytest.raises(DataError, match=says) as raised:
        import_labels([path], tmp_path / "out")
    assert str(path) in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_missing_photos_web_addresses_and_empty_files_are_refused(tmp_path: Path) -> None:
    path = write_via(tmp_path / "via.json", {"a.jpg": [], "b.jpg": []}, draw_photos=False)
    with pytest.raises(DataError, match=r"2 of its 2 photos are missing, the first is .*a\.jpg"):
        import_labels([path], tmp_path / "out")
    write_via(path, {"http://example.org/a.jpg": []}, draw_photos=False)
    with pytest.raises(DataError, match="web address"):
        import_labels([path], tmp_path / "out")
    with pytest.raises(DataError, match="names no photo"):
        read_via(write_via(path, {}, project=True))


def test_the_attribute_is_for_via_files_alone(tmp_path: Path) -> None:
    write_labelme(tmp_path / "in/a", [square("cat")])
    with pytest.raises(ConfigError, match="--via-attribute"):
        import_labels([tmp_path / "in"], tmp_path / "out", ImportOptions(via_attribute="x"))


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["filename", "regions", "_via_img_metadata", "a"]), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_any_json_is_either_no_via_file_or_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, content: Any
) -> None:
    if is_via(content):
        path = tmp_path_factory.mktemp("via") / "x.json"
        path.write_text(json.dumps(content))
        with contextlib.suppress(DataError):
            read_via(path)


@pytest.mark.kit
@pytest.mark.parametrize("project", [False, True])
def test_the_pets_as_via_files_are_the_pets_as_labelme_files(kit: Path, tmp_path: Path, project: bool) -> None:
    for split in ("train", "test"):
        labelled = kit / "datasets/pets-cat-dog" / split
        shutil.copytree(labelled, tmp_path / "in" / split, ignore=shutil.ignore_patterns("*.json"))
        via = tmp_path / "in" / split / "via_region_data.json"
        via_of_labelme(labelled, via, project=project, as_dict=not project)
    ours = import_labels([tmp_path / "in"], tmp_path / "via")
    folders = [kit / "datasets/pets-cat-dog" / split for split in ("train", "test")]
    pets = import_labels(folders, tmp_path / "labelme")
    assert ours.counts == pets.counts
    assert ours.data_hash == pets.data_hash
    assert sorted(w.message for w in ours.warnings) == sorted(w.message for w in pets.warnings)
