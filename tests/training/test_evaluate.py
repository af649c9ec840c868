"""AP: perfect predictions score 100, none score 0, and a class without instances has no AP."""

import json
from pathlib import Path

import numpy as np
import pytest

from maskserve.cli.evaluate import _table
from maskserve.modeling.predictor import Prediction, StageTimes
from maskserve.protos.errors import DataError
from maskserve.training.datasets.manifest import dataset_dicts, load_dataset
from maskserve.training.evaluate import Evaluation, Scores, evaluate
from maskserve.training.evaluation_run import evaluate_run, find_split
from maskserve.training.loader import read_photo
from tests.runs import make_run


class Labels:
    """A predictor that answers with solid boxes around the labels, in the order of the photos."""

    def __init__(self, manifest, keep: bool = True) -> None:
        self.records = iter(dataset_dicts(manifest))
        self.keep = keep

    def network_size(self, size):
        return size

    def __call__(self, images, sizes):
        record = next(self.records)
        labels = record["annotations"] if self.keep else []
        boxes = np.array([a["bbox"] for a in labels], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        count = len(boxes)
        found = Prediction(
            size=sizes[0],
            boxes_xyxy=boxes,
            scores=np.linspace(0.9, 0.8, count, dtype=np.float32),
            class_ids=np.array([a["category_id"] for a in labels], np.int64),
            mask_probs=np.ones((count, 28, 28), np.float32),
        )
        return [found], StageTimes(0.0, 1.0)


def test_perfect_boxes_have_an_ap_of_100(pandas: Path):
    manifest = load_dataset(pandas).train
    found = evaluate(Labels(manifest), manifest, split="train")
    assert found.box.ap == found.box.ap50 == 100
    assert 0 < (found.mask.ap or 0) < 100  # solid boxes are no pandas
    assert found.image_count == 6
    assert found.instance_count == sum(manifest.instances.values())
    assert json.loads(json.dumps(found.to_json()))["box"]["ap75"] == 100


def test_finding_nothing_has_an_ap_of_0(pandas: Path):
    manifest = load_dataset(pandas).train
    found = evaluate(Labels(manifest, keep=False), manifest, split="train")
    assert (found.box.ap, found.mask.ap50) == (0, 0)


def test_a_class_without_instances_has_no_ap(pandas: Path, tmp_path: Path):
    content = json.loads((pandas / "train.json").read_text())
    content["categories"].append({"id": 99, "name": "koala"})
    for image in content["images"]:
        image["file_name"] = str((pandas / image["file_name"]).resolve())
    (tmp_path / "train.json").write_text(json.dumps(content))
    manifest = load_dataset(tmp_path).train
    found = evaluate(Labels(manifest), manifest, split="train")
    assert found.mask.per_class["koala"] is None
    assert found.box.ap == 100


def test_a_split_that_is_not_there_is_named(pandas: Path):
    with pytest.raises(DataError, match=r"val\.json"):
        find_split(pandas, "val")


def test_a_photo_of_another_size_than_its_labels_is_named(pandas: Path):
    record = {**dataset_dicts(load_dataset(pandas).train)[0], "height": 7}
    with pytest.raises(DataError, match=r"labels are for \(7"):
        read_photo(record)


def test_classes_keep_their_ap_when_their_ids_are_out_of_order_and_a_label_has_id_0(pandas: Path, tmp_path: Path):
    content = json.loads((pandas / "train.json").read_text())
    ids = {category["id"]: 90 - category["id"] for category in content["categories"]}
    for category in content["categories"]:
        category["id"] = ids[category["id"]]
    for number, annotation in enumerate(content["annotations"]):
        annotation.update(id=number, category_id=ids[annotation["category_id"]])
    for image in content["images"]:
        image["file_name"] = str((pandas / image["file_name"]).resolve())
    (tmp_path / "train.json").write_text(json.dumps(content))
    original, renumbered = load_dataset(pandas).train, load_dataset(tmp_path).train
    assert list(ids.values()) == sorted(ids.values(), reverse=True)
    expected = evaluate(OneClass(original), original, split="train")
    found = evaluate(OneClass(renumbered), renumbered, split="train")
    assert found.box.per_class == expected.box.per_class
    assert list(found.box.per_class.values()) == [100, 0]


class OneClass(Labels):
    """Answers with the labels of the first class only."""

    def __call__(self, images, sizes):
        (found,), times = super().__call__(images, sizes)
        keep = found.class_ids == 0
        arrays = (found.boxes_xyxy, found.scores, found.class_ids, found.mask_probs)
        return [Prediction(found.size, *(array[keep] for array in arrays))], times


def test_a_folder_that_cannot_be_made_is_named_before_anything_is_measured(pandas: Path, tmp_path: Path):
    run = make_run(tmp_path / "run", "mobilenetv2", load_dataset(pandas).train.class_names)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        evaluate_run(run, pandas, split="train", output=tmp_path / "file" / "results", on_start=pytest.fail)


def test_ap_by_size_is_kept_and_shown(pandas: Path):
    manifest = load_dataset(pandas).train
    found = evaluate(Labels(manifest), manifest, split="train")
    assert set(found.box.per_size) == {"small", "medium", "large"}
    assert 100 in found.box.per_size.values()
    shown = next(line for line in _table(found).splitlines() if line.startswith("large objects"))
    assert ("–" in shown) is (found.mask.per_size["large"] is None)


def test_classes_named_as_rows_have_rows_of_their_own():
    """Names of classes are free."""
    of_class = {"all classes": 1.0, "large objects": 2.0, "large": None}
    scores = Scores(10.0, 20.0, 30.0, of_class, dict.fromkeys(of_class, 5.0), {"large": 40.0})
    lines = _table(Evaluation("test", 1, 1, "", scores, scores, 0.0)).splitlines()[2:]
    assert [" ".join(line.split()) for line in lines] == [
        "all classes 10.0 20.0 30.0 10.0 20.0 30.0",
        "all classes 1.0 5.0 1.0 5.0",
        "large objects 2.0 5.0 2.0 5.0",
        "large – 5.0 – 5.0",
        "large objects 40.0 40.0",
    ]
