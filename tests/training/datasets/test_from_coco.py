"""COCO files give the same manifests as labelme files with the same outlines; RLE masks and crowds stay."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from maskserve.protos.errors import DataError
from maskserve.training.datasets.check import check
from maskserve.training.datasets.importing import Imported, ImportOptions, import_labels
from maskserve.training.datasets.labels import LabelTable
from tests.training.datasets.coco_files import HOLED, SQUARE, annotation, write_coco
from tests.training.datasets.labelme_files import square, write_labelme


def _imported(path: Path, out_dir: Path, **options: Any) -> tuple[Imported, dict[str, Any]]:
    imported = import_labels([path], out_dir, ImportOptions(test_fraction=0, **options))
    return imported, json.loads((out_dir / "train.json").read_text())


def test_ids_with_gaps_are_counted_anew_and_box_and_area_are_those_of_the_mask(tmp_path: Path) -> None:
    path = write_coco(
        tmp_path / "in/x.json",
        [annotation(70, [SQUARE], category=90), annotation(71, [SQUARE, [50, 1, 60, 1, 60, 11]], category=7)],
        categories=[(90, "dog"), (7, "cat")],
    )
    _, manifest = _imported(path, tmp_path / "out")
    assert manifest["categories"] == [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    dog, cat = manifest["annotations"]
    assert (dog["id"], dog["category_id"], dog["bbox"], dog["area"]) == (1, 1, [10, 20, 30, 30], 900)
    assert (cat["id"], cat["category_id"], len(cat["segmentation"])) == (2, 2, 2)


def test_categories_without_objects_stay_unless_a_label_list_leaves_them_out(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "x.json", [annotation(1, [SQUARE])], categories=[(3, "zebra"), (1, "cat")])
    assert _imported(path, tmp_path / "out")[0].class_names == ("zebra", "cat")
    assert _imported(path, tmp_path / "out", labels=LabelTable.of_names(["cat"]))[0].class_names == ("cat",)
    with pytest.raises(DataError, match="annotation 1: the label 'cat' is not in the label list"):
        _imported(path, tmp_path / "out", labels=LabelTable.of_names(["zebra"]))


@pytest.mark.parametrize("compressed", [False, True])
def test_rle_masks_and_crowds_stay_as_they_are(tmp_path: Path, compressed: bool) -> None:
    rle = dict(HOLED)
    if compressed:
        packed = coco_mask.frPyObjects(rle, 60, 80)
        rle = {"size": packed["size"], "counts": packed["counts"].decode()}
    path = write_coco(tmp_path / "x.json", [annotation(1, rle), annotation(2, rle, iscrowd=1)])
    imported, manifest = _imported(path, tmp_path / "out")
    single, crowd = manifest["annotations"]
    assert single["segmentation"] == crowd["segmentation"] == rle
    assert (single["iscrowd"], crowd["iscrowd"]) == (0, 1)
    assert (single["area"], single["bbox"]) == (50, [10, 5, 3, 20])
    assert imported.counts == {"train": {"cat": 1}}
    assert {f.code for f in check([tmp_path / "out"]).findings} <= {"class-imbalance", "tiny-objects"}


def test_the_data_hash_follows_rle_masks_and_crowds(tmp_path: Path) -> None:
    filled = {"size": HOLED["size"], "counts": [605, 20, 40, 20, 40, 20, 4055]}
    hashes = set()
    for mask, crowd in ((HOLED, 0), (HOLED, 1), (filled, 0)):
        path = write_coco(tmp_path / "x.json", [annotation(1, [SQUARE]), annotation(2, mask, iscrowd=crowd)])
        hashes.add(_imported(path, tmp_path / "out")[0].data_hash)
    assert len(hashes) == 3


def test_annotations_without_a_usable_mask_are_left_out_and_told(tmp_path: Path) -> None:
    empty, elsewhere = {"size": [60, 80], "counts": [4800]}, {"size": [80, 60], "counts": [4700, 100]}
    masks = [None, [], [[1, 1, 2, 2]], empty, elsewhere, [SQUARE]]
    path = write_coco(tmp_path / "x.json", [annotation(n, mask) for n, mask in enumerate(masks)])
    imported, manifest = _imported(path, tmp_path / "out")
    assert [a["segmentation"] for a in manifest["annotations"]] == [[SQUARE]]
    assert [(f.code, f.where.place) for f in imported.warnings] == [
        *(("empty-polygon", n) for n in range(4)),
        ("size-mismatch", 4),
    ]


BROKEN = [
    [1, 2, 3, 4, 5, 6],
    [[1, 2, 3, 4, 5, 6, 7]],
    [["1", 2, 3, 4, 5, 6]],
    [[float("nan"), 2, 3, 4, 5, 6]],
    "mask",
    {"size": [60, 80]},
    {"counts": [4800]},
    {"size": [60, 80], "counts": [100, 100]},
    {"size": [60, 80], "counts": [-1, 4801]},
    {"size": [60, 80], "counts": "abc"},
    {"size": [60, 80], "counts": "é"},
    {"size": [60], "counts": [60]},
]


@pytest.mark.parametrize("segmentation", BROKEN)
def test_a_broken_segmentation_is_named_and_nothing_is_written(tmp_path: Path, segmentation: Any) -> None:
    path = write_coco(tmp_path / "x.json", [annotation(7, segmentation)])
    with pytest.raises(DataError, match=r"x\.json, annotation 7: its (segmentation|RLE)"):
        import_labels([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.integers(-5, 5000) | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts"]), inner),
        max_leaves=20,
    )
)
@example(segmentation={"size": [float("inf")]})
def test_any_segmentation_is_kept_left_out_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, segmentation: Any
) -> None:
    folder = tmp_path_factory.mktemp("coco")
    path = write_coco(folder / "x.json", [annotation(1, segmentation), annotation(2, [SQUARE])])
    with contextlib.suppress(DataError):
        imported, manifest = _imported(path, folder / "out")
        assert len(manifest["annotations"]) + len([f for f in imported.warnings if f.level == "error"]) >= 2


def test_missing_damaged_and_resized_photos_are_named(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "x.json", [annotation(1, [SQUARE])], photos=["a.jpg", "b.jpg"])
    data = (tmp_path / "b.jpg").read_bytes()
    for content, says in ((data[:200], "cannot be used"), (None, "1 of its 2 photos are missing, the first is")):
        (tmp_path / "b.jpg").unlink() if content is None else (tmp_path / "b.jpg").write_bytes(content)
        with pytest.raises(DataError, match=says) as raised:
            import_labels([path], tmp_path / "out")
        assert "b.jpg" in str(raised.value)
    path = write_coco(tmp_path / "y.json", [annotation(1, [SQUARE])])
    path.write_text(path.read_text().replace('"height": 60', '"height": 61'))
    with pytest.raises(DataError, match="the manifest says 80×61 px, the photo has 80×60 px"):
        import_labels([path], tmp_path / "out")


def test_labelme_and_coco_files_with_the_same_outlines_give_the_same_manifests(tmp_path: Path) -> None:
    shapes = [square("dog", 10, 20, 30), square("cat", 75, 5, 10, group_id=1), square("cat", 1, 1, 5, group_id=1)]
    labelme = write_labelme(tmp_path / "labelme/a", shapes)
    corners = [[v for point in shape["points"] for v in point] for shape in shapes]
    path = write_coco(
        tmp_path / "coco/x.json",
        [annotation(1, corners[:1], category=2), annotation(2, corners[1:])],
        categories=[(1, "cat"), (2, "dog")],
    )
    (path.parent / "a.jpg").write_bytes(labelme.with_suffix(".jpg").read_bytes())
    (one, one_manifest), (two, two_manifest) = (
        _imported(tmp_path / name, tmp_path / "out" / name) for name in ("labelme", "coco")
    )
    assert one.data_hash == two.data_hash
    assert one_manifest["annotations"] == two_manifest["annotations"]
    assert [w.code for w in one.warnings] == [w.code for w in two.warnings] == ["outside-image"]


def _unordered(folder: Path) -> dict[str, Counter[str]]:
    """Split ─▶ photos and objects of all manifests, without ids and order."""
    lines: dict[str, Counter[str]] = {}
    for file in folder.glob("*.json"):
        manifest = json.loads(file.read_text())
        names = {category["id"]: category["name"] for category in manifest["categories"]}
        photos = {
            i["id"]: [(folder / i["file_name"]).resolve().name, i["height"], i["width"]] for i in manifest["images"]
        }
        objects = [
            [photos[a["image_id"]], names[a["category_id"]], a["segmentation"], a["bbox"], a["area"], a["iscrowd"]]
            for a in manifest["annotations"]
        ]
        lines[file.stem] = Counter(map(json.dumps, [*photos.values(), *objects]))
    return lines


@pytest.mark.kit
def test_the_pets_are_the_same_from_labelme_and_from_coco(kit: Path, tmp_path: Path) -> None:
    pets = kit / "datasets/pets-cat-dog"
    labelme = import_labels([pets / "train", pets / "test"], tmp_path / "labelme")
    coco = import_labels([pets / "instances_train.json", pets / "instances_test.json"], tmp_path / "coco")
    assert _unordered(tmp_path / "labelme") == _unordered(tmp_path / "coco")
    assert labelme.data_hash == coco.data_hash
    assert sum(labelme.images.values()) == 196


@pytest.mark.kit
def test_the_nuts_are_the_same_from_labelme_and_from_coco_but_for_the_last_digits(kit: Path, tmp_path: Path) -> None:
    nuts = kit / "datasets/fruits_nuts"
    options = ImportOptions(test_fraction=0)
    labelme = import_labels([nuts], tmp_path / "labelme", options)
    coco = import_labels([nuts / "trainval.json"], tmp_path / "coco", options)
    assert "trainval.json (COCO)" in labelme.warnings[0].message
    assert labelme.counts == coco.counts
    assert _unordered(tmp_path / "labelme") == _unordered(tmp_path / "coco")


@pytest.mark.kit
def test_cocos_own_files_keep_their_split_classes_crowds_and_masks(kit: Path, tmp_path: Path) -> None:
    folder = kit / "datasets/tiny_coco"
    imported = import_labels([folder], tmp_path)
    assert imported.images == {"train": 50, "val": 50}
    assert len(imported.class_names) == 80
    for split in ("train", "val"):
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = COCO(folder / f"annotations/instances_{split}2017.json")
            ours = COCO(tmp_path / f"{split}.json")
        assert len(ours.anns) == len(theirs.anns)
        for mine, other in zip(ours.anns.values(), theirs.anns.values(), strict=True):
            assert mine["iscrowd"] == other["iscrowd"]
            overlap = coco_mask.iou([ours.annToRLE(mine)], [theirs.annToRLE(other)], [0])[0, 0]
            assert overlap > 0.99
    crowds = [a for a in json.loads((tmp_path / "val.json").read_text())["annotations"] if a["iscrowd"]]
    assert all(isinstance(crowd["segmentation"], dict) for crowd in crowds)
