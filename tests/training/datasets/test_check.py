"""The linter names each mistake with its file and shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskserve.protos.errors import DataError
from maskserve.training.datasets.check import Report, check
from maskserve.training.datasets.findings import Finding
from maskserve.training.datasets.importing import import_labels
from maskserve.training.datasets.labels import LabelTable
from tests.training.datasets.coco_files import SQUARE, annotation, write_coco
from tests.training.datasets.labelme_files import photo_bytes, square, write_labelme


def _found(report: Report) -> list[Finding]:
    """Without what is said of every set as small as these."""
    return [finding for finding in report.findings if finding.code != "class-imbalance"]


def _codes(report: Report) -> list[tuple[str, str, int | None]]:
    return [(f.level, f.code, f.where.place) for f in _found(report)]


def test_good_labels_have_no_findings(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a", [square("cat"), square("dog", 40)] * 10)
    report = check([tmp_path])
    assert report == Report(1, ())


@pytest.mark.parametrize(
    ("shape", "finding"),
    [
        (square("cat", points=[[1, 1], [5, 5]]), ("error", "empty-polygon", 1)),
        (square("cat", points=[[1, 1], [5, 5], [9, 9]]), ("error", "empty-polygon", 1)),
        (square("cat", points=[[1, 1], [20, 20], [20, 1], [1, 20]]), ("warning", "self-intersecting", 1)),
        (square("cat", 70, 10, 20), ("warning", "outside-image", 1)),
        (square("cat", 300, 10, 20), ("error", "outside-image", 1)),
        ({"label": "cat", "points": [[4, 4]], "shape_type": "point"}, ("warning", "no-area", 1)),
        ({"label": "cat", "points": [[4, 4], [4, 4]], "shape_type": "circle"}, ("error", "empty-polygon", 1)),
        ({"label": "cat", "points": [[4, 4], [4, 9]], "shape_type": "rectangle"}, ("error", "empty-polygon", 1)),
        (
            {"label": "cat", "points": [[4, 4], [9, 9]], "shape_type": "mask", "mask": "?"},
            ("error", "empty-polygon", 1),
        ),
    ],
)
def test_a_mistake_in_a_shape_is_found_at_its_place(
    tmp_path: Path, shape: dict[str, Any], finding: tuple[str, str, int]
) -> None:
    path = write_labelme(tmp_path / "a", [square("cat"), shape])
    report = check([tmp_path])
    assert _codes(report) == [finding]
    assert report.findings[0].where.file == str(path)


def test_a_pixel_over_the_edge_is_no_finding(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a", [square("cat", 60.9, 10, 20)])
    assert _found(check([tmp_path])) == []


def test_ignored_labels_are_not_looked_at(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a", [square("cat"), square("__ignore__", 300), square("_background_", points=[])])
    assert _found(check([tmp_path], LabelTable.of_names(["cat"]))) == []


def test_a_photo_without_labels_is_a_warning(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a", [])
    write_labelme(tmp_path / "b", [square("cat")])
    assert _codes(check([tmp_path])) == [("warning", "no-labels", None)]


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    """A training refuses it."""
    path = write_coco(
        tmp_path / "train.json", [annotation(1, {"size": [60, 80], "counts": [700, 100, 4000]}, iscrowd=1)]
    )
    assert ("error", "no-labels", None) in _codes(check([path]))


def test_photos_that_nobody_labelled_are_counted(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a", [square("cat")])
    for name in ("b.JPG", "c.png"):
        (tmp_path / name).write_bytes(photo_bytes())
    (finding,) = _found(check([tmp_path]))
    assert (finding.level, finding.code) == ("warning", "no-labels")
    assert "there are 2" in finding.message
    assert "b.JPG" in finding.message


@pytest.mark.parametrize(
    ("photo", "code"),
    [
        (b"", "unreadable-photo"),
        (b"<html>", "unreadable-photo"),
        (photo_bytes()[:1500], "unreadable-photo"),
        (photo_bytes((30, 40)), "size-mismatch"),
        (photo_bytes((60, 80), orientation=6), "size-mismatch"),
    ],
)
def test_a_photo_that_is_not_the_labelled_one_is_an_error(tmp_path: Path, photo: bytes, code: str) -> None:
    write_labelme(tmp_path / "a", [square("cat")], photo=photo)
    assert _codes(check([tmp_path])) == [("error", code, None)]


def test_a_missing_photo_and_a_broken_file_do_not_hide_other_findings(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a", [square("cat")])
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b.json").write_text("{")
    write_labelme(tmp_path / "c", [])
    write_labelme(tmp_path / "d", [square("cat")])
    codes = [(Path(f.where.file).name, f.code) for f in _found(check([tmp_path]))]
    assert codes == [("a.json", "missing-photo"), ("b.json", "broken-file"), ("c.json", "no-labels")]


@pytest.mark.parametrize("written", ["giant pnada", "giantpanda", "Giant Panda", "giant_panda"])
def test_a_rare_label_close_to_a_common_one_is_pointed_at(tmp_path: Path, written: str) -> None:
    write_labelme(tmp_path / "a", [square("giant panda")] * 5 + [square("red panda"), square(written)])
    report = check([tmp_path])
    assert _codes(report) == [("warning", "misspelt-label", 6)]
    assert "did you mean 'giant panda'?" in report.findings[0].message


def test_with_a_label_list_every_other_label_is_an_error(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a", [square("cat"), square("caat"), square("zebra")])
    report = check([tmp_path], LabelTable.of_names(["cat", "dog"]))
    assert _codes(report) == [("error", "unknown-label", 1), ("error", "unknown-label", 2)]
    assert "did you mean 'cat'?" in report.findings[0].message
    assert "did you mean" not in report.findings[1].message


def test_splits_that_are_named_one_by_one_are_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_labelme(tmp_path / split / split, [square("cat")], photo=photo_bytes(seed=1))
    (finding,) = _found(check([tmp_path / "train", tmp_path / "test"]))
    assert finding.code == "duplicate-photo"
    assert "'train'" in finding.message
    assert "'test'" in finding.message


def test_a_folder_without_labels_is_named_among_others_with_some(tmp_path: Path) -> None:
    write_labelme(tmp_path / "in/a", [square("cat")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no labelme JSON"):
        check([tmp_path / "in", tmp_path / "empty"])


@pytest.mark.parametrize("classes", [((1, "dog"), (2, "cat")), ((1, "cat"),)])
def test_splits_with_other_classes_than_the_training_split_are_an_error(
    tmp_path: Path, classes: tuple[tuple[int, str], ...]
) -> None:
    write_coco(tmp_path / "train.json", [annotation(1, [SQUARE])], categories=((1, "cat"), (2, "dog")))
    path = write_coco(tmp_path / "test.json", [annotation(1, [SQUARE])], photos=("b.jpg",), categories=classes)
    (finding,) = [finding for finding in check([tmp_path]).findings if finding.code == "split-classes"]
    assert (finding.level, finding.where.file) == ("error", str(path))
    assert f"has the classes {', '.join(name for _, name in classes)}, but" in finding.message


def test_a_photo_in_two_splits_is_an_error_even_with_other_metadata(tmp_path: Path) -> None:
    write_labelme(tmp_path / "train/a", [square("cat")], photo=photo_bytes(seed=1, orientation=0))
    write_labelme(tmp_path / "train/b", [square("cat")], photo=photo_bytes(seed=2))
    write_labelme(tmp_path / "test/c", [square("cat")], photo=photo_bytes(seed=1))
    (finding,) = _found(check([tmp_path]))
    assert (finding.level, finding.code) == ("error", "duplicate-photo")
    assert {Path(finding.where.file).name} | {"a.json", "c.json"} == {"a.json", "c.json"}
    assert "'train'" in finding.message
    assert "'test'" in finding.message


def test_counts_that_would_make_pycocotools_write_elsewhere_end_the_check(tmp_path: Path) -> None:
    write_labelme(tmp_path / "in" / "one", [square("cat")])
    import_labels([tmp_path / "in"], tmp_path / "out")
    path = tmp_path / "out/train.json"
    manifest = json.loads(path.read_text())
    manifest["annotations"][0]["segmentation"] = {"size": [60, 80], "counts": "04P"}
    path.write_text(json.dumps(manifest))
    (broken,) = [one for one in check([path]).findings if one.level == "error"]
    assert broken.code == "broken-file"
    assert "annotation 1: its RLE has no counts that fill its size" in broken.message


def test_a_manifest_is_checked_like_its_labels(tmp_path: Path) -> None:
    for number in range(6):
        write_labelme(tmp_path / "in" / str(number), [square("cat")])
    import_labels([tmp_path / "in"], tmp_path / "out")
    assert _codes(check([tmp_path / "out"])) == []
    path = tmp_path / "out/train.json"
    manifest = json.loads(path.read_text())
    manifest["annotations"][0] |= {"segmentation": [[1, 1, 20, 20, 20, 1, 1, 20]], "bbox": [1, 1, 19, 19]}
    manifest["annotations"][1]["segmentation"] = []
    manifest["annotations"][2]["segmentation"] = {"size": [60, 80], "counts": [4800]}
    manifest["annotations"][3]["segmentation"] = {"size": [80, 60], "counts": [4800]}
    manifest["images"][0]["height"] = 61
    manifest["images"].append({"id": 99, "file_name": "absent.jpg", "height": 60, "width": 80})
    path.write_text(json.dumps(manifest))
    assert _codes(check([path])) == [
        ("error", "size-mismatch", None),
        ("warning", "self-intersecting", 1),
        ("error", "empty-polygon", 2),
        ("error", "empty-polygon", 3),
        ("error", "size-mismatch", 4),
        ("error", "missing-photo", None),
        ("warning", "no-labels", None),
    ]


def test_photos_shared_by_two_manifests_are_found(tmp_path: Path) -> None:
    write_labelme(tmp_path / "in/a", [square("cat")])
    write_labelme(tmp_path / "in/b", [square("cat")])
    import_labels([tmp_path / "in"], tmp_path / "out")
    (tmp_path / "out/test.json").write_bytes((tmp_path / "out/train.json").read_bytes())
    assert {f.code for f in _found(check([tmp_path / "out"]))} == {"duplicate-photo"}


def test_a_broken_manifest_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("{")
    assert _codes(check([tmp_path])) == [("error", "broken-file", None)]


def test_a_path_that_is_not_there_or_has_no_labels_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="labelme"):
            check([path])


def test_a_finding_is_told_as_json_with_file_and_shape(tmp_path: Path) -> None:
    path = write_labelme(tmp_path / "a", [square("cat", points=[])])
    report = check([tmp_path])
    entry = report.findings[0].as_json()
    assert (entry["level"], entry["code"], entry["file"], entry["shape"]) == ("error", "empty-polygon", str(path), 0)


@pytest.mark.kit
@pytest.mark.parametrize("name", ["fruits_nuts", "fruits_nuts/trainval.json", "labelme-examples", "pets-cat-dog"])
def test_real_labelled_photos_have_no_errors(kit: Path, name: str) -> None:
    report = check([kit / "datasets" / name])
    assert report.error_count == 0
    assert {f.code for f in report.findings} <= {"self-intersecting", "class-imbalance", "tiny-objects"}


@pytest.mark.kit
def test_the_list_of_2020_is_no_coco_file(kit: Path) -> None:
    report = check([kit / "datasets/panda-original-annotations"])
    assert {f.code for f in report.findings} == {"broken-file"}


def _write_manifest(folder: Path, annotations: list[dict[str, Any]], classes: tuple[str, ...] = ("cat",)) -> Path:
    (folder / "a.jpg").write_bytes(photo_bytes())
    outline = {"segmentation": [[10, 10, 40, 10, 40, 40, 10, 40]], "bbox": [10, 10, 30, 30]}
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 60, "width": 80}],
        "annotations": [{"image_id": 1, "category_id": 1, **outline, **fields} for fields in annotations],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
    }
    path = folder / "train.json"
    path.write_text(json.dumps(coco))
    return path


def test_a_box_that_its_polygons_do_not_fill_is_pointed_at(tmp_path: Path) -> None:
    path = _write_manifest(
        tmp_path, [{"id": 1}, {"id": 2, "bbox": [10, 10, 35, 30]}, {"id": 3, "bbox": [9, 9, 31, 31]}]
    )
    assert _codes(check([path])) == [("warning", "box-mismatch", 2)]


@pytest.mark.parametrize("ids", [(0, 1), (1, 1), (0, 0)])
def test_annotation_ids_that_the_evaluation_mixes_up_are_pointed_at(tmp_path: Path, ids: tuple[int, int]) -> None:
    path = _write_manifest(tmp_path, [{"id": number} for number in ids])
    assert _codes(check([path])) == [("warning", "annotation-id", None)]


def test_a_label_table_says_what_becomes_of_its_labels(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a", [square("kitten"), square("cat"), square("kitten"), square("blurred"), square("dog")])
    report = check([tmp_path], LabelTable(("cat",), {"cat": "cat", "kitten": "cat", "blurred": ""}))
    assert _codes(report) == [("error", "unknown-label", 4), *[("warning", "relabelled", None)] * 2]
    assert report.survey.counts() == {"cat": 3, "dog": 1}


def _balance(tmp_path: Path, train: dict[str, int], test: dict[str, int]) -> dict[str, str]:
    """Class ─▶ what is said of it, for so many objects."""
    for split, counts in (("train", train), ("test", test)):
        shapes = [square(name) for name, count in counts.items() for _ in range(count)]
        write_labelme(tmp_path / split / "a", shapes)
    found = [f for f in check([tmp_path]).findings if f.code == "class-imbalance"]
    assert {f.level for f in found} <= {"warning"}
    return {f.message.split("'")[1]: f.message for f in found}


def test_a_class_is_told_once_when_it_is_rare_or_missing_from_a_split(tmp_path: Path) -> None:
    train = {"cat": 400, "dog": 20, "fox": 19, "owl": 9, "eel": 10}
    told = _balance(tmp_path, train, {"cat": 1, "dog": 1, "fox": 1, "ant": 1})
    assert set(told) == {"fox", "owl", "eel", "ant"}
    assert "has 19 objects to learn from, less than a twentieth of the commonest class's 400;" in told["fox"]
    assert "has 9 objects to learn from, fewer than 10 and is missing in 'test';" in told["owl"]
    assert "is missing in 'train';" in told["ant"]


def test_a_declared_class_without_an_object_is_told(tmp_path: Path) -> None:
    path = _write_manifest(tmp_path, [{"id": number} for number in range(1, 11)], ("cat", "dog"))
    (finding,) = check([path]).findings
    assert (finding.code, "'dog' is missing in 'train'" in finding.message) == ("class-imbalance", True)


def test_objects_too_small_for_a_preset_are_told_once_a_class_with_the_preset_that_sees_them(tmp_path: Path) -> None:
    photo = photo_bytes((480, 640))
    shapes = [
        square("cat", 50, 50, 25),
        square("cat", 90, 50, 60),
        square("dog", 50, 50, 60),
        square("dog", 90, 50, 60),
    ]
    write_labelme(tmp_path / "a", [*shapes, square("ant", 9, 9, 4)], photo=photo, size=(480, 640))
    told = {f.message.split("'")[1]: f.message for f in check([tmp_path]).findings if f.code == "tiny-objects"}
    assert set(told) == {"cat", "ant"}
    # 25 px of 480 are 6.7 px of quick's 128
    assert "50% at quick's 128 px, 0% at standard's" in told["cat"]
    assert told["cat"].endswith("train with --preset standard")
    assert told["ant"].endswith("cut the photos into tiles, or take closer ones")
