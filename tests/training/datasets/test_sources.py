"""Which files are labels, of which format and split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskserve.protos.errors import DataError
from maskserve.training.datasets.check import check
from maskserve.training.datasets.coco import stated_split
from maskserve.training.datasets.importing import ImportOptions, import_labels
from maskserve.training.datasets.sources import find_labels
from tests.training.datasets.coco_files import SQUARE, annotation, write_coco
from tests.training.datasets.labelme_files import square, write_labelme
from tests.training.datasets.via_files import polygon, write_via


def _found(*paths: Path) -> list[tuple[str, str, str | None]]:
    return [(source.path.name, source.format, source.split) for source in find_labels(paths)[0]]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.json", "train"),
        ("instances_val2017.json", "val"),
        ("test2.json", "test"),
        ("trainval.json", None),
        ("training.json", None),
        ("annotations.json", None),
    ],
)
def test_the_split_is_read_off_the_usual_names_alone(name: str, split: str | None) -> None:
    assert stated_split(Path(name)) == split


def test_each_file_is_recognised_by_its_content_whatever_its_name(tmp_path: Path) -> None:
    write_labelme(tmp_path / "coco", [square("cat")])
    write_coco(tmp_path / "via.json", [annotation(1, [SQUARE])])
    write_via(tmp_path / "labelme.json", {"v.jpg": [polygon([(1, 1), (9, 1), (9, 9)], kind="cat")]})
    (tmp_path / "notes.json").write_text('{"note": 1}')
    files = [tmp_path / name for name in ("coco.json", "via.json", "labelme.json")]
    assert [kind for _, kind, _ in _found(*files)] == ["labelme", "coco", "via"]
    imported = import_labels(files, tmp_path / "out", ImportOptions(test_fraction=0))
    assert imported.counts == {"train": {"cat": 3}}
    with pytest.raises(DataError, match=r"notes\.json: no labels there"):
        find_labels([tmp_path / "notes.json"])


def test_of_a_folder_with_two_formats_labelme_is_taken_and_the_rest_is_told(tmp_path: Path) -> None:
    write_labelme(tmp_path / "b", [square("cat")])
    write_coco(tmp_path / "x.json", [annotation(1, [SQUARE])])
    sources, (left,) = find_labels([tmp_path])
    assert [source.path.name for source in sources] == ["b.json"]
    assert left.code == "other-format"
    assert "x.json (COCO)" in left.message


def test_hidden_files_and_folders_are_not_looked_at(tmp_path: Path) -> None:
    write_labelme(tmp_path / ".set/b", [square("cat")])
    for name in (".vscode/settings.json", "._b.json", "._b.jpg"):
        (tmp_path / ".set" / name).parent.mkdir(exist_ok=True)
        (tmp_path / ".set" / name).write_bytes(b"\0\5\x16\7Mac OS X")
    assert _found(tmp_path / ".set") == [("b.json", "labelme", None)]
    assert {finding.code for finding in check([tmp_path / ".set"]).findings} == {"class-imbalance"}


def test_json_that_cannot_be_read_does_not_decide_the_format(tmp_path: Path) -> None:
    write_coco(tmp_path / "x.json", [annotation(1, [SQUARE])])
    (tmp_path / "tsconfig.json").write_text("{ // a comment\n}")
    assert _found(tmp_path) == [("x.json", "coco", None)]
    (finding,) = import_labels([tmp_path], tmp_path / "out", ImportOptions(test_fraction=0)).warnings
    assert (finding.level, finding.code) == ("warning", "broken-file")
    assert finding.where.file.endswith("tsconfig.json")


def test_manifests_of_an_earlier_import_beside_labelme_files_are_no_news(tmp_path: Path) -> None:
    for number in range(5):
        write_labelme(tmp_path / str(number), [square("cat")])
    assert import_labels([tmp_path], tmp_path).warnings == ()
    assert import_labels([tmp_path], tmp_path).warnings == ()


def test_coco_files_with_split_names_keep_them_and_others_are_dealt_out(tmp_path: Path) -> None:
    for name in ("instances_train.json", "instances_test.json", "extra.json"):
        write_coco(tmp_path / name, [annotation(1, [SQUARE])])
    train, test, extra = (tmp_path / f"{n}.json" for n in ("instances_train", "instances_test", "extra"))
    assert [split for *_, split in _found(train, test)] == ["train", "test"]
    assert [split for *_, split in _found(train, extra)] == [None, None]
    assert [split for *_, split in _found(test)] == [None]
    assert _found(tmp_path) == [("instances_test.json", "coco", "test"), ("instances_train.json", "coco", "train")]


@pytest.mark.parametrize("val", ["val", "valid"])
def test_labelme_folders_called_val_or_valid_are_for_validation(tmp_path: Path, val: str) -> None:
    for name in ("train", val):
        write_labelme(tmp_path / name / "a", [square("cat")])
    expected = [("a.json", "labelme", "train"), ("a.json", "labelme", "val")]
    assert _found(tmp_path) == _found(tmp_path / "train", tmp_path / val) == expected


@pytest.mark.parametrize("name", ["train", "test"])
def test_photos_in_one_splits_folder_alone_are_dealt_out_unless_it_is_named_for_training(
    tmp_path: Path, name: str
) -> None:
    write_labelme(tmp_path / name / "a", [square("cat")])
    assert _found(tmp_path) == [("a.json", "labelme", None)]
    assert _found(tmp_path / name) == [("a.json", "labelme", "train" if name == "train" else None)]


def test_splits_that_are_named_one_by_one_stay_when_other_photos_are_named_too(tmp_path: Path) -> None:
    for name in ("train", "test", "new", "more/train", "more/test"):
        write_labelme(tmp_path / name / name.replace("/", "_"), [square("cat")])
    train, test = (write_coco(tmp_path / f"{n}.json", [annotation(1, [SQUARE])]) for n in ("train", "test"))
    folders = [tmp_path / name for name in ("train", "test", "new", "more")]
    assert [split for *_, split in _found(*folders)] == ["train", "test", None, "test", "train"]
    assert [split for *_, split in _found(train, test, tmp_path / "new")] == ["train", "test", None]
    assert [split for *_, split in _found(tmp_path / "train", tmp_path / "new")] == [None, None]


def test_a_folder_for_each_split_with_its_own_coco_file_keeps_the_split(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write_coco(tmp_path / split / "_annotations.coco.json", [annotation(1, [SQUARE])])
    assert sorted(str(split) for *_, split in _found(tmp_path)) == ["test", "train", "val"]


def test_a_coco_file_is_never_overwritten_by_a_manifest(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "train.json", [annotation(1, [SQUARE])])
    before = path.read_bytes()
    with pytest.raises(DataError, match="would be overwritten"):
        import_labels([path], tmp_path)
    assert path.read_bytes() == before


def test_an_own_dataset_can_be_imported_again_with_other_splits(tmp_path: Path) -> None:
    for number in range(5):
        write_labelme(tmp_path / "in" / str(number), [square("cat")])
    first = import_labels([tmp_path / "in"], tmp_path / "a")
    again = import_labels([tmp_path / "a"], tmp_path / "b")
    assert (again.images, again.data_hash) == (first.images, first.data_hash)
    names = [i["file_name"] for i in json.loads((tmp_path / "b/train.json").read_text())["images"]]
    assert all((tmp_path / "b" / name).is_file() for name in names)
