"""`--fix` mends what is mechanical into new files; originals stay, and what is left is a person's."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskserve.protos.errors import DataError
from maskserve.training.datasets.changes import Change
from maskserve.training.datasets.check import check
from maskserve.training.datasets.fix import fix
from maskserve.training.datasets.importing import ImportOptions, import_labels
from maskserve.training.datasets.labels import LabelTable
from maskserve.training.datasets.manifest import dataset_dicts, load_dataset, load_manifest
from tests.training.datasets.labelme_files import photo_bytes, square, write_labelme

TABLE = LabelTable(("cat", "dog"), {"cat": "cat", "dog": "dog", "puppy, small": "dog", "blurred": ""})
BOW_TIE = [[10, 10], [30, 30], [30, 10], [10, 30]]
BOW_TIE_HALVES = [[[30, 30], [30, 10], [20, 20]], [[10, 30], [20, 20], [10, 10]]]
OF_SETS = {"class-imbalance", "tiny-objects"}


def _state(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _left(path: Path, labels: LabelTable | None = None) -> set[str]:
    return {finding.code for finding in check([path], labels).findings} - OF_SETS


def _codes(changes: tuple[Change, ...]) -> list[tuple[str, int | None]]:
    return [(change.code, change.where.place) for change in changes]


def _fixed_shapes(tmp_path: Path, shapes: list[dict[str, Any]], **fields: Any) -> tuple[Any, tuple[Change, ...]]:
    """The content of the fixed file, and the changes."""
    write_labelme(tmp_path / "in/a", shapes, **fields)
    before = _state(tmp_path / "in")
    changes = fix(tmp_path / "in", tmp_path / "out", TABLE)
    assert _state(tmp_path / "in") == before
    return _json(tmp_path / "out/a.json"), changes


def test_a_good_labelme_file_is_the_same_but_for_where_its_photo_lies(tmp_path: Path) -> None:
    shapes = [
        square("cat", description="asleep", other=[1]),
        {"label": "cat", "points": [[4, 4]], "shape_type": "point"},
    ]
    fixed, changes = _fixed_shapes(tmp_path, shapes, flags={"night": True}, lineColor=[1, 2])
    assert changes == ()
    original = _json(tmp_path / "in/a.json")
    assert fixed == original | {"imagePath": "../in/a.jpg"}


def test_letters_beyond_ascii_are_escaped_and_names_that_are_no_utf_8_kept(tmp_path: Path) -> None:
    """labelme reads files in the machine's own encoding."""
    stem = os.fsdecode(b"caf\xe9")
    write_labelme(tmp_path / "in" / stem, [square("Bär")])
    fix(tmp_path / "in", tmp_path / "out")
    content = json.loads((tmp_path / "out" / f"{stem}.json").read_text(encoding="ascii"))
    assert (content["shapes"][0]["label"], content["imagePath"]) == ("Bär", f"../in/{stem}.jpg")


@pytest.mark.parametrize(
    ("shape", "code", "points"),
    [
        (square("cat", 70, 10, 20), "outside-image", [[[70, 30], [80, 30], [80, 10], [70, 10]]]),
        (
            square("cat", points=[*BOW_TIE]),
            "self-intersecting",
            [[[30, 30], [30, 10], [20, 20]], [[10, 30], [20, 20], [10, 10]]],
        ),
        (square("cat", points=[[1, 1], [1, 1], [9, 1], [9, 9]]), "repeated-points", [[[1, 1], [9, 1], [9, 9]]]),
        (square("cat", 300, 10, 20), "outside-image", []),
        (square("cat", points=[[1, 1], [5, 5]]), "empty-polygon", []),
        (square("cat", points=[]), "empty-polygon", []),
        (
            {"label": "cat", "points": [[60, -5], [90, 9]], "shape_type": "rectangle"},
            "outside-image",
            [[[60, 0], [80, 9]]],
        ),
        (
            square("cat", 70, 10, 20, shape_type="rectangle"),
            "outside-image",
            [[[70, 30], [80, 30], [80, 10], [70, 10]]],
        ),
        ({"label": "cat", "points": [[4, 4], [4, 9]], "shape_type": "rectangle"}, "empty-polygon", []),
        ({"label": "cat", "points": [[4, 4], [4, 4]], "shape_type": "circle"}, "empty-polygon", []),
    ],
)
def test_a_shape_is_mended_cut_or_dropped(
    tmp_path: Path, shape: dict[str, Any], code: str, points: list[list[list[float]]]
) -> None:
    fixed, changes = _fixed_shapes(tmp_path, [square("dog"), shape])
    assert _codes(changes) == [(code, 1)]
    assert fixed["shapes"][0] == square("dog")
    assert [sorted(one["points"]) for one in fixed["shapes"][1:]] == [sorted(outline) for outline in points]
    assert _left(tmp_path / "out") <= {"no-area"}


def test_the_parts_of_one_shape_stay_one_object(tmp_path: Path) -> None:
    fixed, _ = _fixed_shapes(tmp_path, [square("dog", group_id=4), square("cat", points=BOW_TIE, description="tie")])
    parts = fixed["shapes"][1:]
    assert [(part["group_id"], part["description"]) for part in parts] == [(5, "tie")] * 2
    import_labels([tmp_path / "out"], tmp_path / "set")
    assert load_manifest(tmp_path / "set/train.json").instances == {"cat": 1, "dog": 1}


def test_a_shape_that_falls_apart_stays_in_its_group(tmp_path: Path) -> None:
    fixed, _ = _fixed_shapes(tmp_path, [square("cat", 50, group_id=4), square("cat", points=BOW_TIE, group_id=4)])
    assert [shape["group_id"] for shape in fixed["shapes"]] == [4, 4, 4]


def test_objects_of_one_group_whose_labels_become_the_same_stay_apart(tmp_path: Path) -> None:
    labels = ["puppy, small", "dog", "puppy, smal", "dog", "cat"]
    shapes = [square(label, 15 * x, group_id=1) for x, label in enumerate(labels)]
    fixed, _ = _fixed_shapes(tmp_path, [*shapes, square("dog", side=5, group_id=2)])
    assert [(shape["label"], shape["group_id"]) for shape in fixed["shapes"]] == [
        *[("dog", 1), ("dog", 3), ("dog", 1), ("dog", 3), ("cat", 1), ("dog", 2)]
    ]
    import_labels([tmp_path / "out"], tmp_path / "set")
    assert load_manifest(tmp_path / "set/train.json").instances == {"cat": 1, "dog": 3}


def test_a_circle_over_the_edge_becomes_a_polygon_and_one_inside_stays(tmp_path: Path) -> None:
    circles = [{"label": "cat", "points": [[x, 30], [x + 9, 30]], "shape_type": "circle"} for x in (40, 78)]
    fixed, _ = _fixed_shapes(tmp_path, circles)
    assert [shape["shape_type"] for shape in fixed["shapes"]] == ["circle", "polygon"]
    assert max(x for x, _ in fixed["shapes"][1]["points"]) == 80


def test_labels_become_what_the_table_says_and_are_never_guessed_without_one(tmp_path: Path) -> None:
    labels = ["cat", "caat", "zebra", "puppy, small", "blurred", "__ignore__"]
    fixed, changes = _fixed_shapes(tmp_path, [square(label) for label in labels])
    assert [shape["label"] for shape in fixed["shapes"]] == ["cat", "cat", "zebra", "dog", "__ignore__", "__ignore__"]
    assert _codes(changes) == [("unknown-label", 1), ("relabelled", 3), ("relabelled", 4)]
    assert _left(tmp_path / "out", TABLE) == {"unknown-label"}
    assert fix(tmp_path / "in", tmp_path / "unguessed") == ()
    assert [shape["label"] for shape in _json(tmp_path / "unguessed/a.json")["shapes"]] == labels


def test_labels_drawn_before_the_exif_turn_are_turned(tmp_path: Path) -> None:
    photo = photo_bytes((60, 80), orientation=6)
    mask = {"label": "dog", "points": [[50, 5], [59, 14]], "shape_type": "mask", "mask": _bitmap()}
    fixed, changes = _fixed_shapes(tmp_path, [square("cat", 10, 20, 5), mask], photo=photo)
    assert _codes(changes) == [("size-mismatch", None)]
    assert (fixed["imageHeight"], fixed["imageWidth"]) == (80, 60)
    assert fixed["shapes"][0]["points"] == [[40, 10], [40, 15], [35, 15], [35, 10]]
    assert fixed["shapes"][1]["shape_type"] == "polygon"
    assert _left(tmp_path / "out") == set()


def _bitmap() -> str:
    import base64
    import io

    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((10, 10), 255, np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_labels_of_another_size_are_scaled_and_of_another_photo_left_alone(tmp_path: Path) -> None:
    write_labelme(tmp_path / "in/a", [square("cat", 10, 10, 20)], photo=photo_bytes((120, 160)))
    write_labelme(tmp_path / "in/b", [square("cat", 10, 10, 20)], photo=photo_bytes((120, 90)))
    changes = fix(tmp_path / "in", tmp_path / "out")
    assert [Path(change.where.file).name for change in changes] == ["a.json"]
    assert _json(tmp_path / "out/a.json")["shapes"][0]["points"] == square("cat", 20, 20, 40)["points"]
    assert _json(tmp_path / "out/b.json") == _json(tmp_path / "in/b.json") | {"imagePath": "../in/b.jpg"}
    assert _left(tmp_path / "out") == {"size-mismatch"}


def test_a_photo_in_two_splits_leaves_the_training_split(tmp_path: Path) -> None:
    for name in ("train/deep/a", "train/b", "test/c"):
        photo = photo_bytes(seed=2) if name == "train/b" else photo_bytes(seed=1)
        write_labelme(tmp_path / "in" / name, [square("cat")], photo=photo)
    (change,) = fix(tmp_path / "in", tmp_path / "out")
    assert (change.code, Path(change.where.file).name) == ("duplicate-photo", "a.json")
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.json")) == ["b.json", "c.json"]
    assert _left(tmp_path / "out") == set()


def test_what_cannot_be_read_is_kept_for_a_person(tmp_path: Path) -> None:
    write_labelme(tmp_path / "in/a", [square("cat")])
    (tmp_path / "in/a.jpg").unlink()
    (tmp_path / "in/b.json").write_text("{")
    write_labelme(tmp_path / "in/c", [square("cat")], embedded=True)
    assert fix(tmp_path / "in", tmp_path / "out") == ()
    assert _left(tmp_path / "out") == {"missing-photo", "broken-file"}
    assert _json(tmp_path / "out/c.json") == _json(tmp_path / "in/c.json")


def _dataset(folder: Path) -> Path:
    """Eight photos of a cat or a dog as a dataset folder."""
    for number in range(8):
        write_labelme(folder / "in" / str(number), [square("cat" if number % 2 else "dog", 10, 10, 20)])
    import_labels([folder / "in"], folder / "set")
    return folder / "set"


def _change(path: Path, *changes: dict[str, Any]) -> Any:
    """Change the first annotations of a manifest, one each."""
    manifest = _json(path)
    for annotation, fields in zip(manifest["annotations"], changes, strict=False):
        annotation.update(fields)
    path.write_text(json.dumps(manifest))
    return manifest


def test_a_good_dataset_is_the_same_data(tmp_path: Path) -> None:
    folder = _dataset(tmp_path)
    assert fix(folder, tmp_path / "deep/er/out") == ()
    one, other = load_dataset(folder), load_dataset(tmp_path / "deep/er/out")
    assert one.train.data_hash == other.train.data_hash
    records = [{**record, "file_name": Path(record["file_name"]).resolve()} for record in dataset_dicts(one.train)]
    mended = [{**record, "file_name": Path(record["file_name"]).resolve()} for record in dataset_dicts(other.train)]
    assert records == mended


def test_annotations_are_mended_with_their_boxes_and_areas(tmp_path: Path) -> None:
    path = _dataset(tmp_path) / "train.json"
    _change(
        path,
        {"segmentation": [[10, 10, 30, 30, 30, 10, 10, 30]]},
        {"segmentation": [[70, 10, 90, 10, 90, 30, 70, 30]], "bbox": [70, 10, 20, 20]},
        {"bbox": [0, 0, 5, 5]},
        {"segmentation": [[1, 1, 5, 5]]},
        {"segmentation": []},
        {"segmentation": {"size": [60, 80], "counts": [100, 200, 4500]}, "iscrowd": 1},
    )
    changes = fix(path, tmp_path / "out")
    assert _codes(changes) == [
        ("self-intersecting", 1),
        ("outside-image", 2),
        ("box-mismatch", 3),
        ("empty-polygon", 4),
    ]
    mended = {annotation["id"]: annotation for annotation in _json(tmp_path / "out/train.json")["annotations"]}
    assert set(mended) == {1, 2, 3, 5, 6}
    assert (len(mended[1]["segmentation"]), mended[1]["bbox"]) == (2, [10, 10, 20, 20])
    assert 190 <= mended[1]["area"] <= 210
    assert (mended[2]["bbox"], mended[2]["area"]) == ([70, 10, 10, 20], 200)
    assert mended[3]["bbox"] == [10, 10, 20, 20]
    assert mended[6]["segmentation"]["counts"] == [100, 200, 4500]
    assert {f.code for f in check([tmp_path / "out"]).findings if f.level == "error"} == {"empty-polygon"}


def test_an_rle_mask_without_pixels_is_taken_out(tmp_path: Path) -> None:
    path = _dataset(tmp_path) / "train.json"
    _change(path, {"segmentation": {"size": [60, 80], "counts": [4800]}})
    assert _codes(fix(path, tmp_path / "out")) == [("empty-polygon", 1)]
    assert 1 not in [annotation["id"] for annotation in _json(tmp_path / "out/train.json")["annotations"]]


def test_the_hash_of_changed_labels_is_another(tmp_path: Path) -> None:
    folder = _dataset(tmp_path)
    before = load_dataset(folder).train.data_hash
    _change(folder / "test.json", {"segmentation": [[10, 10, 30, 30, 30, 10, 10, 30]]})
    fix(folder, tmp_path / "out")
    assert load_dataset(tmp_path / "out").train.data_hash != before


def test_annotation_ids_are_numbered_anew_only_when_they_clash(tmp_path: Path) -> None:
    path = _dataset(tmp_path) / "train.json"
    _change(path, {"id": 70})
    assert fix(path, tmp_path / "kept") == ()
    _change(path, {"id": 0}, {"id": 3})
    (change,) = fix(path, tmp_path / "out")
    assert change.code == "annotation-id"
    assert [a["id"] for a in _json(tmp_path / "out/train.json")["annotations"]] == [1, 2, 3, 4, 5, 6]


def test_missing_fields_are_filled_in(tmp_path: Path) -> None:
    path = _dataset(tmp_path) / "train.json"
    manifest = _json(path)
    for field in ("area", "iscrowd"):
        del manifest["annotations"][0][field]
    path.write_text(json.dumps(manifest))
    (change,) = fix(path, tmp_path / "out")
    assert (change.code, change.message) == ("incomplete-annotation", "area and iscrowd filled in")
    assert _json(tmp_path / "out/train.json")["annotations"][0]["area"] == 400


@pytest.mark.parametrize(("orientation", "box"), [(1, [20, 20, 40, 40]), (6, None)])
def test_a_manifests_labels_are_scaled_with_their_photo(
    tmp_path: Path, orientation: int, box: list[int] | None
) -> None:
    folder = _dataset(tmp_path)
    image = _json(folder / "train.json")["images"][0]
    (folder / image["file_name"]).write_bytes(photo_bytes((120, 160), orientation=orientation))
    (change,) = fix(folder, tmp_path / "out")
    mended = _json(tmp_path / "out/train.json")
    assert change.code == "size-mismatch"
    # shown turned by 90°, (10, 10) to (30, 30) of 80×60 px lie at (30, 10) to (50, 30) of 60×80, here twice as large
    assert mended["annotations"][0]["bbox"] == (box or [60, 20, 40, 40])
    assert _left(tmp_path / "out") == set()


@pytest.mark.parametrize(("orientation", "box"), [(1, [20, 20, 40, 10]), (6, [90, 20, 10, 40])])
def test_a_box_without_a_mask_goes_along_with_the_others(tmp_path: Path, orientation: int, box: list[int]) -> None:
    folder = _dataset(tmp_path)
    _change(folder / "train.json", {"segmentation": [], "bbox": [10, 10, 20, 5], "area": 100})
    image = _json(folder / "train.json")["images"][0]
    (folder / image["file_name"]).write_bytes(photo_bytes((120, 160), orientation=orientation))
    fix(folder, tmp_path / "out")
    annotation = _json(tmp_path / "out/train.json")["annotations"][0]
    assert (annotation["bbox"], annotation["area"]) == (box, 400)


def test_classes_are_merged_in_all_splits_alike(tmp_path: Path) -> None:
    folder = _dataset(tmp_path)
    for split in ("train", "test"):
        manifest = _json(folder / f"{split}.json")
        manifest["categories"] = [{"id": 3, "name": "dogg", "supercategory": "pet"}, {"id": 7, "name": "blurred"}]
        manifest["categories"] += [{"id": 9, "name": "puppy, small"}] if split == "train" else []
        for annotation in manifest["annotations"]:
            annotation["category_id"] = 3
        manifest["annotations"][0]["category_id"] = 9 if split == "train" else 7
        (folder / f"{split}.json").write_text(json.dumps(manifest))
    changes = fix(folder, tmp_path / "out", TABLE)
    assert {change.code for change in changes} == {"relabelled", "unknown-label"}
    mended = load_dataset(tmp_path / "out")
    assert mended.test is not None
    assert mended.train.class_names == mended.test.class_names == ("cat", "dog")
    assert (mended.train.instances["dog"], mended.test.instances["dog"]) == (6, 1)
    assert _json(tmp_path / "out/train.json")["categories"][1]["supercategory"] == "pet"
    assert _left(tmp_path / "out", TABLE) <= {"no-labels"}


def test_a_photo_in_two_manifests_leaves_the_training_one(tmp_path: Path) -> None:
    folder = _dataset(tmp_path)
    train, test = _json(folder / "train.json"), _json(folder / "test.json")
    train["images"].append({**test["images"][0], "id": 99})
    train["annotations"].append({**test["annotations"][0], "id": 99, "image_id": 99})
    (folder / "train.json").write_text(json.dumps(train))
    (change,) = fix(folder, tmp_path / "out")
    assert change.code == "duplicate-photo"
    mended = load_dataset(tmp_path / "out")
    assert mended.test is not None
    assert (mended.train.image_count, mended.test.image_count) == (6, 2)
    assert _left(tmp_path / "out") == set()


def test_a_training_split_that_is_all_in_the_test_split_is_refused(tmp_path: Path) -> None:
    folder = _dataset(tmp_path)
    (folder / "test.json").write_bytes((folder / "train.json").read_bytes())
    with pytest.raises(DataError, match=r"train\.json: all of its photos are in a later split"):
        fix(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["in", "in/fixed", ".", "full", "full/file"])
def test_an_output_folder_that_holds_or_mixes_with_data_is_refused(tmp_path: Path, out: str) -> None:
    write_labelme(tmp_path / "in/a", [square("cat")])
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    before = _state(tmp_path)
    with pytest.raises(DataError, match="choose a"):
        fix(tmp_path / "in", tmp_path / out)
    assert _state(tmp_path) == before


def test_nothing_is_left_when_it_is_stopped_on_the_way(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_labelme(tmp_path / "in" / name, [square("cat")])

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fix(tmp_path / "in", tmp_path / "deep/out", on_photo=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


@pytest.mark.kit
@pytest.mark.parametrize("name", ["labelme-examples", "pets-cat-dog", "tiny_coco"])
def test_real_labels_have_nothing_mechanical_left(kit: Path, tmp_path: Path, name: str) -> None:
    folder = kit / "datasets" / name
    assert "self-intersecting" in _left(folder)
    changes = fix(folder, tmp_path / "out")
    assert "self-intersecting" in {change.code for change in changes}
    assert _left(tmp_path / "out") <= {"no-labels"}


def test_a_mask_whose_pixels_touch_at_a_corner_is_right(tmp_path: Path) -> None:
    """It is two pieces of one object, and so it is after an import."""
    pixels = np.zeros((20, 20), bool)
    pixels[2:9, 2:9] = pixels[9:18, 9:18] = True
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    bitmap = base64.b64encode(buffer.getvalue()).decode()
    mask = square("cat", shape_type="mask", points=[[10, 10], [29, 29]], mask=bitmap)
    fixed, changes = _fixed_shapes(tmp_path, [mask])
    assert changes == ()
    assert fixed["shapes"] == [mask]
    assert import_labels([tmp_path / "in"], tmp_path / "set", ImportOptions(test_fraction=0)).counts == {
        "train": {"cat": 1}
    }
    assert _left(tmp_path / "in") == _left(tmp_path / "set") == set()
