"""COCO manifests, ours and others', become Detectron2's records."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskserve.protos.errors import DataError
from maskserve.training.datasets.coco import read_coco
from maskserve.training.datasets.importing import ImportOptions, import_labels
from maskserve.training.datasets.manifest import dataset_dicts, load_dataset, load_manifest, register
from tests.training.datasets.labelme_files import photo_bytes, square, write_labelme

SQUARE = [10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]


def _coco(**changes: Any) -> dict[str, Any]:
    """Category ids with gaps, a crowd, and a photo without labels."""
    annotation = {"image_id": 5, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0, "segmentation": [SQUARE]}
    crowd = {"size": [60, 80], "counts": [600, 120, 4080]}
    coco = {
        "images": [
            {"id": 5, "file_name": "a.jpg", "height": 60, "width": 80},
            {"id": 9, "file_name": "b.jpg", "height": 60, "width": 80},
        ],
        "annotations": [
            {**annotation, "id": 11, "category_id": 18},
            {**annotation, "id": 12, "category_id": 3, "iscrowd": 1, "segmentation": crowd},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
    }
    return {**coco, **changes}


def _write(path: Path, coco: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(coco))
    return path


def test_category_ids_with_gaps_become_contiguous_in_file_order(tmp_path: Path) -> None:
    manifest = load_manifest(_write(tmp_path / "x.json", _coco()))
    assert manifest.class_names == ("dog", "car")
    assert manifest.image_count == 2
    assert manifest.instances == {"dog": 1, "car": 0}
    first, second = dataset_dicts(manifest)
    assert [a["category_id"] for a in first["annotations"]] == [0, 1]
    assert second["annotations"] == []
    assert first["file_name"] == str(tmp_path.resolve() / "a.jpg")
    assert (first["height"], first["width"], first["image_id"]) == (60, 80, 5)


def test_numbers_that_are_written_as_texts_and_names_that_are_numbers_are_read_as_what_they_are(tmp_path: Path) -> None:
    coco = _coco(categories=[{"id": 18, "name": "7"}, {"id": 3, "name": "car"}])
    plain = _write(tmp_path / "plain.json", coco)
    for annotation in coco["annotations"]:
        annotation |= {"category_id": str(annotation["category_id"]), "iscrowd": str(annotation["iscrowd"])}
    for image in coco["images"]:
        image |= {"height": "60", "width": 80.0}
    coco["categories"] = [{"id": "18", "name": 7}, {"id": "3", "name": "car"}]
    assert read_coco(_write(tmp_path / "written.json", coco)) == read_coco(plain)


def test_a_crowd_keeps_its_mask_and_its_mark(tmp_path: Path) -> None:
    from detectron2.structures import BoxMode

    plain, crowd = dataset_dicts(load_manifest(_write(tmp_path / "x.json", _coco())))[0]["annotations"]
    assert (plain["iscrowd"], plain["segmentation"], plain["bbox_mode"]) == (0, [SQUARE], BoxMode.XYWH_ABS)
    assert crowd["iscrowd"] == 1
    assert crowd["segmentation"]["size"] == [60, 80]


def test_registering_twice_is_the_same_as_once(tmp_path: Path) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    manifest = load_manifest(_write(tmp_path / "x.json", _coco()))
    for _ in range(2):
        register(manifest, "tests_manifest")
    assert len(DatasetCatalog.get("tests_manifest")) == 2
    metadata = MetadataCatalog.get("tests_manifest")
    assert metadata.thing_classes == ["dog", "car"]
    assert metadata.thing_dataset_id_to_contiguous_id == {18: 0, 3: 1}
    assert metadata.json_file == str(manifest.path)


def test_a_file_that_pycocotools_cannot_take_is_not_given_to_it(tmp_path: Path) -> None:
    from detectron2.data import MetadataCatalog

    coco = _coco()
    del coco["annotations"][0]["area"]
    register(load_manifest(_write(tmp_path / "x.json", coco)), "tests_no_area")
    assert not hasattr(MetadataCatalog.get("tests_no_area"), "json_file")


def test_the_records_have_the_masks_that_detectron2_trains_on(tmp_path: Path) -> None:
    from detectron2.data.detection_utils import annotations_to_instances

    write_labelme(tmp_path / "in/a", [square("cat", 10, 10, 20), square("dog", 40, 20, 10)])
    import_labels([tmp_path / "in"], tmp_path / "out", ImportOptions(test_fraction=0))
    (record,) = dataset_dicts(load_dataset(tmp_path / "out").train)
    instances = annotations_to_instances(record["annotations"], (60, 80))
    assert instances.gt_boxes.tensor.tolist() == [[10, 10, 30, 30], [40, 20, 50, 30]]
    assert instances.gt_classes.tolist() == [0, 1]
    assert instances.gt_masks.area().tolist() == [400, 100]


def test_an_imported_manifest_gets_full_marks_against_itself(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    for name in "ab":
        write_labelme(tmp_path / "in" / name, [square("cat", 10, 10, 20), square("dog", 40, 20, 10)])
    import_labels([tmp_path / "in"], tmp_path / "out", ImportOptions(test_fraction=0))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "out/train.json"))
        answers = truth.loadRes([{**copy.deepcopy(a), "score": 0.9} for a in truth.dataset["annotations"]])
        for kind in ("bbox", "segm"):
            evaluation = COCOeval(truth, answers, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            assert evaluation.stats[0] == pytest.approx(1.0)


def test_a_dataset_folder_or_its_train_manifest_gives_all_splits(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        _write(tmp_path / f"{split}.json", _coco())
    for path in (tmp_path, tmp_path / "train.json", str(tmp_path)):
        dataset = load_dataset(path)
        assert dataset.val is not None
        assert dataset.test is not None
        assert dataset.test.path.name == "test.json"


def test_a_coco_file_of_another_name_stands_alone(tmp_path: Path) -> None:
    for name in ("train", "test", "mine"):
        _write(tmp_path / f"{name}.json", _coco())
    dataset = load_dataset(tmp_path / "mine.json")
    assert dataset.train.path.name == "mine.json"
    assert dataset.test is None


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("annotations/instances_train2017.json", "annotations/instances_test2017.json"),
        ("instances_train.json", "instances_test.json"),
        ("train/_annotations.coco.json", "test/_annotations.coco.json"),
    ],
)
def test_the_usual_coco_layouts_are_dataset_folders(tmp_path: Path, train: str, test: str) -> None:
    _write(tmp_path / train, _coco())
    _write(tmp_path / test, _coco())
    dataset = load_dataset(tmp_path)
    assert dataset.train.path == tmp_path.resolve() / train
    assert dataset.test is not None


@pytest.mark.parametrize("photos", ["annotations", "train2017", "images/train2017", "images", "."])
def test_photos_are_found_where_coco_layouts_have_them(tmp_path: Path, photos: str) -> None:
    path = _write(tmp_path / "annotations/instances_train2017.json", _coco())
    (tmp_path / photos).mkdir(parents=True, exist_ok=True)
    (tmp_path / photos / "a.jpg").write_bytes(photo_bytes())
    assert Path(dataset_dicts(load_manifest(path))[0]["file_name"]).is_file()


def test_photos_are_found_where_the_first_lies_that_is_there(tmp_path: Path) -> None:
    path = _write(tmp_path / "train.json", _coco())
    (tmp_path / "images").mkdir()
    (tmp_path / "images/b.jpg").write_bytes(photo_bytes())
    assert load_manifest(path).image_root == tmp_path.resolve() / "images"


def test_splits_with_other_classes_are_refused(tmp_path: Path) -> None:
    _write(tmp_path / "train.json", _coco())
    _write(tmp_path / "test.json", _coco(categories=[{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}]))
    with pytest.raises(DataError, match=r"the classes dog, cat, but train\.json has dog, car"):
        load_dataset(tmp_path)


def test_a_labelme_folder_is_told_to_be_imported_first(tmp_path: Path) -> None:
    write_labelme(tmp_path / "train/a", [square("cat")])
    with pytest.raises(DataError, match="maskserve data import"):
        load_dataset(tmp_path)
    with pytest.raises(DataError, match="maskserve data import"):
        load_dataset(tmp_path / "train/a.json")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": []}, "no list of 'images'"),
        ({"annotations": None}, "no list of 'annotations'"),
        ({"categories": {}}, "no list of 'categories'"),
        ({"images": [{"id": 1}]}, r"images\[0\] has no file_name, height, width"),
        ({"images": [3]}, r"images\[0\] has no"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "two categories have the same id"),
        ({"annotations": [{"id": 1, "image_id": 77, "category_id": 3, "bbox": []}]}, "names image 77"),
        ({"annotations": [{"id": 1, "image_id": 5, "category_id": 77, "bbox": []}]}, "names category 77"),
    ],
)
def test_an_incomplete_coco_file_is_named_with_the_place(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    path = _write(tmp_path / "x.json", _coco(**changes))
    with pytest.raises(DataError, match=says) as raised:
        load_manifest(path)
    assert str(path.resolve()) in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null"])
def test_what_is_no_coco_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json"):
        load_manifest(tmp_path / "x.json")


def test_a_missing_file_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_manifest(tmp_path / "x.json")
    with pytest.raises(DataError, match="does not exist"):
        load_dataset(tmp_path / "nowhere")


def test_the_data_hash_follows_the_content(tmp_path: Path) -> None:
    one = load_manifest(_write(tmp_path / "x.json", _coco())).data_hash
    assert load_manifest(_write(tmp_path / "y.json", _coco())).data_hash == one
    assert load_manifest(_write(tmp_path / "x.json", _coco(images=_coco()["images"][::-1]))).data_hash != one


@pytest.mark.kit
def test_coco_itself_works_as_it_is(kit: Path) -> None:
    dataset = load_dataset(kit / "datasets/tiny_coco")
    assert dataset.val is not None
    records = dataset_dicts(dataset.train) + dataset_dicts(dataset.val)
    annotations = [a for record in records for a in record["annotations"]]
    assert (len(records), len(annotations)) == (100, 852)
    assert sum(a["iscrowd"] for a in annotations) == 10
    assert {a["category_id"] for a in annotations} <= set(range(80))
    assert all(Path(record["file_name"]).is_file() for record in records)


@pytest.mark.kit
def test_coco_records_become_instances_in_detectron2(kit: Path) -> None:
    from detectron2.data.detection_utils import annotations_to_instances

    for record in dataset_dicts(load_dataset(kit / "datasets/tiny_coco").train):
        kept = [a for a in record["annotations"] if not a["iscrowd"]]
        instances = annotations_to_instances(kept, (record["height"], record["width"]))
        assert len(instances) == len(kept)
        assert np.isfinite(instances.gt_boxes.tensor.numpy()).all()
