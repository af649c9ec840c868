"""The linter names each mistake with its file and shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskserve.protos.errors import DataError
from maskserve.training.datasets.check import Report, check
from maskserve.training.datasets.importing import import_labels
from tests.training.datasets.labelme_files import photo_bytes, square, write_labelme


def _codes(report: Report) -> list[tuple[str, str, int | None]]:
    return [(f.level, f.code, f.where.place) for f in report.findings]


def test_good_labels_have_no_findings(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a", [square("cat"), square("dog", 40)])
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
    assert check([tmp_path]).findings == ()


def test_ignored_labels_are_not_looked_at(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a", [square("cat"), square("__ignore__", 300), square("_background_", points=[])])
    assert check([tmp_path], ["cat"]).findings == ()


def test_a_photo_without_labels_is_a_warning(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a", [])
    assert _codes(check([tmp_path])) == [("warning", "no-labels", None)]


def test_photos_that_nobody_labelled_are_counted(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a", [square("cat")])
    for name in ("b.JPG", "c.png"):
        (tmp_path / name).write_bytes(photo_bytes())
    (finding,) = check([tmp_path]).findings
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
    codes = [(Path(f.where.file).name, f.code) for f in check([tmp_path]).findings]
    assert codes == [("a.json", "missing-photo"), ("b.json", "broken-file"), ("c.json", "no-labels")]


@pytest.mark.parametrize("written", ["giant pnada", "giantpanda", "Giant Panda", "giant_panda"])
def test_a_rare_label_close_to_a_common_one_is_pointed_at(tmp_path: Path, written: str) -> None:
    write_labelme(tmp_path / "a", [square("giant panda")] * 5 + [square("red panda"), square(written)])
    report = check([tmp_path])
    assert _codes(report) == [("warning", "misspelt-label", 6)]
    assert "did you mean 'giant panda'?" in report.findings[0].message


def test_with_a_label_list_every_other_label_is_an_error(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a", [square("cat"), square("caat"), square("zebra")])
    report = check([tmp_path], ["cat", "dog"])
    assert _codes(report) == [("error", "unknown-label", 1), ("error", "unknown-label", 2)]
    assert "did you mean 'cat'?" in report.findings[0].message
    assert "did you mean" not in report.findings[1].message


def test_a_photo_in_two_splits_is_an_error_even_with_other_metadata(tmp_path: Path) -> None:
    write_labelme(tmp_path / "train/a", [square("cat")], photo=photo_bytes(seed=1, orientation=0))
    write_labelme(tmp_path / "train/b", [square("cat")], photo=photo_bytes(seed=2))
    write_labelme(tmp_path / "test/c", [square("cat")], photo=photo_bytes(seed=1))
    (finding,) = check([tmp_path]).findings
    assert (finding.level, finding.code) == ("error", "duplicate-photo")
    assert {Path(finding.where.file).name} | {"a.json", "c.json"} == {"a.json", "c.json"}
    assert "'train'" in finding.message
    assert "'test'" in finding.message


def test_a_manifest_is_checked_like_its_labels(tmp_path: Path) -> None:
    for number in range(6):
        write_labelme(tmp_path / "in" / str(number), [square("cat")])
    import_labels([tmp_path / "in"], tmp_path / "out")
    assert check([tmp_path / "out"]) == Report(6, ())
    path = tmp_path / "out/train.json"
    manifest = json.loads(path.read_text())
    manifest["annotations"][0]["segmentation"] = [[1, 1, 20, 20, 20, 1, 1, 20]]
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
    assert {f.code for f in check([tmp_path / "out"]).findings} == {"duplicate-photo"}


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
    assert {f.code for f in report.findings} <= {"self-intersecting"}


@pytest.mark.kit
def test_the_list_of_2020_is_no_coco_file(kit: Path) -> None:
    report = check([kit / "datasets/panda-original-annotations"])
    assert {f.code for f in report.findings} == {"broken-file"}
