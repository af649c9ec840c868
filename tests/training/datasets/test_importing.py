"""labelme folders become one COCO manifest per split, all of them or none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskserve.protos.errors import DataError
from maskserve.training.datasets.importing import ImportOptions, import_labels
from maskserve.training.datasets.labels import LabelTable
from tests.training.datasets.coco_files import SQUARE, annotation, write_coco
from tests.training.datasets.labelme_files import photo_bytes, square, write_labelme


def _manifest(folder: Path, split: str = "train") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{split}.json").read_text())
    return content


def _many(folder: Path, cats: int = 8, dogs: int = 4) -> Path:
    for number in range(cats + dogs):
        write_labelme(folder / f"{number:02}", [square("cat" if number < cats else "dog")])
    return folder


def test_each_photo_object_and_class_is_in_the_manifest_with_its_geometry(tmp_path: Path) -> None:
    write_labelme(tmp_path / "in/a", [square("dog", 10, 20, 30), square("cat", 5, 5, 10)])
    import_labels([tmp_path / "in"], tmp_path / "out", ImportOptions(test_fraction=0))
    manifest = _manifest(tmp_path / "out")
    assert manifest["images"] == [{"id": 1, "file_name": "../in/a.jpg", "height": 60, "width": 80}]
    assert manifest["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    dog, cat = manifest["annotations"]
    assert dog == {
        "id": 1,
        "image_id": 1,
        "category_id": 2,
        "segmentation": [[10, 20, 40, 20, 40, 50, 10, 50]],
        "bbox": [10, 20, 30, 30],
        "area": 900,
        "iscrowd": 0,
    }
    assert (cat["id"], cat["category_id"], cat["area"]) == (2, 1, 100)
    assert manifest["info"]["maskserve"]["counts"] == {"cat": 1, "dog": 1}


def test_shapes_of_a_group_are_one_annotation_and_their_overlap_counts_once(tmp_path: Path) -> None:
    write_labelme(tmp_path / "in/a", [square("cat", 0, 0, 20, group_id=3), square("cat", 10, 0, 20, group_id=3)])
    import_labels([tmp_path / "in"], tmp_path / "out", ImportOptions(test_fraction=0))
    (annotation,) = _manifest(tmp_path / "out")["annotations"]
    assert len(annotation["segmentation"]) == 2
    assert annotation["area"] == 600
    assert annotation["bbox"] == [0, 0, 30, 20]


def test_photos_are_split_by_class_the_same_way_each_time(tmp_path: Path) -> None:
    folder = _many(tmp_path / "in")
    first = import_labels([folder], tmp_path / "a", ImportOptions(test_fraction=0.25, seed=3))
    import_labels([folder], tmp_path / "b", ImportOptions(test_fraction=0.25, seed=3))
    assert first.counts == {"train": {"cat": 6, "dog": 3}, "test": {"cat": 2, "dog": 1}}
    assert (tmp_path / "a/test.json").read_bytes() == (tmp_path / "b/test.json").read_bytes()


def test_a_validation_split_is_made_when_asked_for_and_goes_when_not(tmp_path: Path) -> None:
    folder = _many(tmp_path / "in")
    imported = import_labels([folder], tmp_path / "out", ImportOptions(test_fraction=0.25, val_fraction=0.25))
    assert imported.images == {"train": 6, "val": 3, "test": 3}
    import_labels([folder], tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["test.json", "train.json"]


@pytest.mark.parametrize("name_the_parent", [True, False])
def test_the_users_own_train_and_test_folders_are_kept(tmp_path: Path, name_the_parent: bool) -> None:
    for split, number in (("train", 0), ("train", 1), ("test", 2)):
        write_labelme(tmp_path / "in" / split / str(number), [square("cat")])
    folders = [tmp_path / "in"] if name_the_parent else [tmp_path / "in/train", tmp_path / "in/test"]
    import_labels(folders, tmp_path / "out")
    assert [i["file_name"] for i in _manifest(tmp_path / "out", "test")["images"]] == ["../in/test/2.jpg"]
    assert len(_manifest(tmp_path / "out")["images"]) == 2


def test_copies_of_one_photo_stay_in_one_split_also_with_other_metadata(tmp_path: Path) -> None:
    for number in range(10):
        photo = photo_bytes(seed=number // 2, orientation=number % 2)
        write_labelme(tmp_path / "in" / str(number), [square("cat")], photo=photo)
    import_labels([tmp_path / "in"], tmp_path / "out", ImportOptions(test_fraction=0.4))
    test = {Path(image["file_name"]).stem for image in _manifest(tmp_path / "out", "test")["images"]}
    assert all((str(n) in test) == (str(n + 1) in test) for n in range(0, 10, 2))


def test_a_copy_of_a_photo_whose_split_is_stated_goes_there_too(tmp_path: Path) -> None:
    for split, seeds in (("train", range(4)), ("test", range(4, 8)), ("new", range(4, 12))):
        for seed in seeds:
            write_labelme(tmp_path / split / f"{split}{seed}", [square("cat")], photo=photo_bytes(seed=seed))
    folders = [tmp_path / split for split in ("train", "test", "new")]
    import_labels(folders, tmp_path / "out", ImportOptions(test_fraction=0))
    test = [Path(image["file_name"]).stem for image in _manifest(tmp_path / "out", "test")["images"]]
    assert test == [f"test{seed}" for seed in range(4, 8)] + [f"new{seed}" for seed in range(4, 8)]


def test_sizes_are_those_after_exif_orientation(tmp_path: Path) -> None:
    write_labelme(tmp_path / "in/a", [square("cat")], size=(80, 60), photo=photo_bytes((60, 80), orientation=6))
    import_labels([tmp_path / "in"], tmp_path / "out", ImportOptions(test_fraction=0))
    (image,) = _manifest(tmp_path / "out")["images"]
    assert (image["height"], image["width"]) == (80, 60)


@pytest.mark.parametrize(("kind", "extension"), [("PNG", ".png"), ("BMP", ".bmp"), ("TIFF", ".TIF"), ("WEBP", ".webp")])
def test_photos_of_any_extension_are_taken(tmp_path: Path, kind: str, extension: str) -> None:
    write_labelme(tmp_path / "in/a", [square("cat")], photo=photo_bytes(kind=kind), extension=extension)
    import_labels([tmp_path / "in"], tmp_path / "out", ImportOptions(test_fraction=0))
    assert _manifest(tmp_path / "out")["images"][0]["file_name"] == f"../in/a{extension}"


def test_photos_that_are_only_in_their_json_are_written_beside_the_manifests(tmp_path: Path) -> None:
    photos = [photo_bytes(kind="PNG", seed=seed) for seed in range(2)]
    for name, photo in zip("ab", photos, strict=True):
        write_labelme(tmp_path / "in" / name, [square("cat")], photo=photo, embedded=True)
    import_labels([tmp_path / "in"], tmp_path / "out", ImportOptions(test_fraction=0))
    names = [image["file_name"] for image in _manifest(tmp_path / "out")["images"]]
    assert [(name[:9], name[-4:]) for name in names] == [("images/a-", ".png"), ("images/b-", ".png")]
    assert [(tmp_path / "out" / name).read_bytes() for name in names] == photos


def test_what_lies_outside_the_photo_is_cut_off_and_told(tmp_path: Path) -> None:
    circle = {"label": "cat", "points": [[80, 30], [80, 10]], "shape_type": "circle", "group_id": None}
    write_labelme(tmp_path / "in/a", [circle, square("cat", 200, 200)])
    imported = import_labels([tmp_path / "in"], tmp_path / "out", ImportOptions(test_fraction=0))
    (annotation,) = _manifest(tmp_path / "out")["annotations"]
    assert annotation["bbox"] == pytest.approx([60, 10, 20, 40], abs=0.2)
    assert annotation["area"] == pytest.approx(np.pi * 20**2 / 2, rel=0.03)
    assert [finding.code for finding in imported.warnings] == ["outside-image", "outside-image"]


def test_a_self_crossing_polygon_that_reaches_outside_is_cut_too(tmp_path: Path) -> None:
    bow_tie = square("cat", points=[[-10, 10], [40, 50], [40, 10], [-10, 50]])
    write_labelme(tmp_path / "in/a", [bow_tie])
    import_labels([tmp_path / "in"], tmp_path / "out", ImportOptions(test_fraction=0))
    (annotation,) = _manifest(tmp_path / "out")["annotations"]
    assert min(x for polygon in annotation["segmentation"] for x in polygon[::2]) == 0
    assert len(annotation["segmentation"]) == 2


@pytest.mark.parametrize("left", [0, -0.4, -9])
def test_a_hole_that_is_drawn_with_a_bridge_stays_one_at_the_photos_edge_too(tmp_path: Path, left: float) -> None:
    frame = [[left, 2], [40, 2], [40, 40], [left, 40], [left, 2], [10, 10], [10, 30], [30, 30], [30, 10], [10, 10]]
    write_labelme(tmp_path / "in/a", [square("cat", points=frame)])
    import_labels([tmp_path / "in"], tmp_path / "out", ImportOptions(test_fraction=0))
    (annotation,) = _manifest(tmp_path / "out")["annotations"]
    assert (annotation["bbox"], annotation["area"]) == ([0, 2, 40, 38], pytest.approx(40 * 38 - 20 * 20, abs=25))


def test_shapes_without_area_are_left_out_and_told(tmp_path: Path) -> None:
    line = {"label": "cat", "points": [[1, 1], [9, 9]], "shape_type": "line"}
    flat = square("cat", points=[[1, 1], [9, 9], [5, 5]])
    write_labelme(tmp_path / "in/a", [line, flat, square("cat")])
    imported = import_labels([tmp_path / "in"], tmp_path / "out", ImportOptions(test_fraction=0))
    assert len(_manifest(tmp_path / "out")["annotations"]) == 1
    assert [(f.code, f.where.place) for f in imported.warnings] == [("no-area", 0), ("empty-polygon", 1)]


def test_a_photo_without_labels_is_kept_as_background(tmp_path: Path) -> None:
    folder = _many(tmp_path / "in", 4, 0)
    write_labelme(folder / "empty", [])
    imported = import_labels([folder], tmp_path / "out", ImportOptions(test_fraction=0))
    assert imported.images == {"train": 5}


def test_a_label_list_gives_the_classes_and_their_order(tmp_path: Path) -> None:
    folder = _many(tmp_path / "in")
    labels = LabelTable.of_names(["dog", "fox", "cat"])
    imported = import_labels([folder], tmp_path / "out", ImportOptions(labels=labels))
    assert imported.class_names == ("dog", "fox", "cat")
    assert imported.counts["train"]["fox"] == 0


def test_the_data_hash_follows_photos_and_labels_but_not_where_they_lie(tmp_path: Path) -> None:
    shapes = [square("cat")]
    for name, place, content in (("a", "x/a", shapes), ("b", "y/b", shapes), ("c", "x/a", [square("cat", side=21)])):
        write_labelme(tmp_path / name / place, content, photo=photo_bytes())
    options = ImportOptions(test_fraction=0)
    one, same, other = (import_labels([tmp_path / n], tmp_path / "out" / n, options).data_hash for n in "abc")
    assert one == same
    assert one != other
    (tmp_path / "a/x/a.jpg").write_bytes(photo_bytes(seed=9))
    assert import_labels([tmp_path / "a"], tmp_path / "out" / "a", options).data_hash != one


def test_the_data_hash_follows_the_splits_too(tmp_path: Path) -> None:
    """Or a model would not be known to have been trained on another deal's test photos."""
    for number in range(8):
        write_labelme(tmp_path / f"in/{number}", [square("cat")], photo=photo_bytes(seed=number))
    dealt = (ImportOptions(), ImportOptions(), ImportOptions(seed=1), ImportOptions(test_fraction=0.5))
    one, same, *others = (import_labels([tmp_path / "in"], tmp_path / "out", options).data_hash for options in dealt)
    assert one == same
    assert len({one, *others}) == 3


def test_other_json_files_are_passed_over_and_an_import_into_the_folder_itself_can_be_repeated(tmp_path: Path) -> None:
    folder = _many(tmp_path / "in")
    for _ in range(2):
        assert import_labels([folder], folder).images == {"train": 9, "test": 3}


def _broken_json(folder: Path) -> None:
    (folder / "03.json").write_text('{"shapes": [')


def _missing_photo(folder: Path) -> None:
    (folder / "03.jpg").unlink()


def _text_for_photo(folder: Path) -> None:
    (folder / "03.jpg").write_text("not found")


def _half_a_photo(folder: Path) -> None:
    data = (folder / "03.jpg").read_bytes()
    (folder / "03.jpg").write_bytes(data[: len(data) // 2])


def _resized(folder: Path) -> None:
    (folder / "03.jpg").write_bytes(photo_bytes((30, 40)))


def _turned(folder: Path) -> None:
    (folder / "03.jpg").write_bytes(photo_bytes((60, 80), orientation=6))


BREAKERS: list[tuple[Callable[[Path], None], str]] = [
    (_broken_json, "not readable JSON"),
    (_missing_photo, "missing"),
    (_text_for_photo, "no readable photo"),
    (_half_a_photo, "damaged"),
    (_resized, "labelled at 80×60 px, but 03.jpg has 40×30 px"),
    (_turned, "EXIF orientation"),
]


@pytest.mark.parametrize(("break_it", "says"), BREAKERS)
def test_broken_input_is_named_and_nothing_is_written(
    tmp_path: Path, break_it: Callable[[Path], None], says: str
) -> None:
    folder = _many(tmp_path / "in")
    break_it(folder)
    with pytest.raises(DataError, match=says) as raised:
        import_labels([folder], tmp_path / "out" / "deep")
    assert "03.json" in str(raised.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_a_broken_import_leaves_an_earlier_one_as_it_was(tmp_path: Path) -> None:
    folder = _many(tmp_path / "in")
    import_labels([folder], tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    _missing_photo(folder)
    with pytest.raises(DataError):
        import_labels([folder], tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_a_folder_without_labelme_files_says_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.json").write_text("{}")
    with pytest.raises(DataError, match="labelme"):
        import_labels([tmp_path / name], tmp_path / "out")


def test_photos_without_any_polygon_are_refused(tmp_path: Path) -> None:
    write_labelme(tmp_path / "in/a", [])
    with pytest.raises(DataError, match="no photo has a labelled polygon"):
        import_labels([tmp_path / "in"], tmp_path / "out")


def test_a_label_that_is_not_in_the_list_is_named_with_its_shape(tmp_path: Path) -> None:
    folder = _many(tmp_path / "in")
    with pytest.raises(DataError, match=r"08\.json, shape 0: the label 'dog' is not in the label list \(cat\)"):
        import_labels([folder], tmp_path / "out", ImportOptions(labels=LabelTable.of_names(["cat"])))


def test_a_labelme_file_is_never_overwritten_by_a_manifest(tmp_path: Path) -> None:
    path = write_labelme(tmp_path / "in/train", [square("cat")])
    before = path.read_bytes()
    with pytest.raises(DataError, match="would be overwritten"):
        import_labels([tmp_path / "in"], tmp_path / "in")
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["train", "val", "test"])
@pytest.mark.parametrize("kind", ["labelme", "coco", "notes"])
def test_what_no_import_made_is_neither_replaced_nor_taken_away(tmp_path: Path, name: str, kind: str) -> None:
    folder = _many(tmp_path / "out/batch")
    path = tmp_path / "out" / f"{name}.json"
    if kind == "labelme":
        write_labelme(tmp_path / "out" / name, [square("cat")])
    elif kind == "coco":
        write_coco(path, [annotation(1, [SQUARE])])
    else:
        path.write_text("[1]")
    before = path.read_bytes()
    with pytest.raises(DataError, match="is not of an earlier import and would be overwritten"):
        import_labels([folder], tmp_path / "out")
    assert {p.name: p.read_bytes() for p in path.parent.glob("*.json")} == {path.name: before}


@pytest.mark.kit
def test_labelme_own_example_gives_the_objects_that_labelme_expects(kit: Path, tmp_path: Path) -> None:
    folder = kit / "datasets/labelme-examples"
    imported = import_labels([folder], tmp_path, ImportOptions(test_fraction=0))
    expected = json.loads((folder / "annotations.json").read_text())
    names = {category["id"]: category["name"] for category in expected["categories"]}
    areas = sorted((names[a["category_id"]], a["area"]) for a in expected["annotations"])
    manifest = _manifest(tmp_path)
    found = sorted((imported.class_names[a["category_id"] - 1], a["area"]) for a in manifest["annotations"])
    assert [name for name, _ in found] == [name for name, _ in areas]
    assert [area for _, area in found] == pytest.approx([area for _, area in areas], rel=0.08)


@pytest.mark.kit
def test_embedded_photos_of_labelme_3_are_unpacked(kit: Path, tmp_path: Path) -> None:
    shutil.copytree(kit / "datasets/fruits_nuts/images", tmp_path / "in", ignore=shutil.ignore_patterns("*.jpg"))
    imported = import_labels([tmp_path / "in"], tmp_path / "out")
    totals = {name: sum(counts[name] for counts in imported.counts.values()) for name in imported.class_names}
    assert totals == {"date": 71, "fig": 41, "hazelnut": 53}
    assert len(list((tmp_path / "out/images").iterdir())) == 18


@pytest.mark.kit
def test_the_pets_keep_their_own_split_and_match_their_coco_file(kit: Path, tmp_path: Path) -> None:
    folder = kit / "datasets/pets-cat-dog"
    imported = import_labels([folder], tmp_path)
    assert imported.counts == {"train": {"cat": 72, "dog": 75}, "test": {"cat": 24, "dog": 25}}
    expected = json.loads((folder / "instances_test.json").read_text())
    theirs = {Path(i["file_name"]).name: i["id"] for i in expected["images"]}
    boxes = {a["image_id"]: a["bbox"] for a in expected["annotations"]}
    manifest = _manifest(tmp_path, "test")
    for image, found in zip(manifest["images"], manifest["annotations"], strict=True):
        assert found["bbox"] == pytest.approx(boxes[theirs[Path(image["file_name"]).name]], abs=1.5)


@pytest.mark.kit
def test_the_panda_of_2020_keeps_its_box_and_mask(kit: Path, tmp_path: Path) -> None:
    folder = kit / "datasets/panda-original-annotations"
    (record,) = json.loads((folder / "t08.json").read_text())
    (old,) = record["annotations"]
    points = np.reshape(old["segmentation"][0], (-1, 2)).tolist()
    size = record["height"], record["width"]
    photo = (folder / "t08.jpg").read_bytes()
    write_labelme(tmp_path / "in/t08", [square("giant panda", points=points)], size=size, photo=photo)
    import_labels([tmp_path / "in"], tmp_path / "out", ImportOptions(test_fraction=0))
    (annotation,) = _manifest(tmp_path / "out")["annotations"]
    x, y, width, height = annotation["bbox"]
    assert [x, y, x + width, y + height] == pytest.approx(old["bbox"], abs=0.02)
    area_px = coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(old["segmentation"], *size)))
    assert annotation["area"] == pytest.approx(area_px, rel=0.001)
