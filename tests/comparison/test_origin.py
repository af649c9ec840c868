"""The photos of a comparison are told by data set and split, as run.json of a training has them."""

from __future__ import annotations

import shutil
from pathlib import Path

from maskserve.comparison.origin import origin
from maskserve.comparison.results import Origin
from maskserve.training.datasets.manifest import load_dataset, load_manifest
from maskserve.training.evaluation_run import find_split
from tests.comparison.answers import write_manifest


def of(data: Path, split: str = "test") -> Origin:
    return origin(data, split, find_split(data, split))


def test_an_import_is_known_by_its_splits_wherever_a_manifest_lies(pandas: Path, tmp_path: Path):
    trained_on = load_dataset(pandas).train.data_hash
    assert of(pandas) == Origin(trained_on, "test")
    assert of(pandas, "train") == of(pandas / "train.json") == Origin(trained_on, "train")
    assert of(pandas / "test.json") == Origin(trained_on, "test")
    assert of(Path(shutil.copy(pandas / "train.json", tmp_path / "mine.json"))) == Origin(trained_on, "train")


def test_other_coco_files_of_a_folder_are_one_data_set_and_one_alone_is_what_trains(tmp_path: Path):
    train, test = (write_manifest(tmp_path / f"{name}.json", [], [name]).path for name in ("train", "test"))
    trained_on = load_dataset(tmp_path).train.data_hash
    assert of(tmp_path) == Origin(trained_on, "test")
    assert of(train) == Origin(trained_on, "train")
    assert of(test) == Origin(load_manifest(test).data_hash, "train")
