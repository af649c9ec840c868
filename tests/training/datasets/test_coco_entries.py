"""Values that cannot be in a COCO file: named where it is read, so that nothing behind falls over them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskserve.protos.errors import DataError
from maskserve.training.datasets.check import check
from maskserve.training.datasets.fix import fix
from maskserve.training.datasets.importing import import_labels
from maskserve.training.datasets.manifest import dataset_dicts, load_manifest
from maskserve.training.datasets.samples import find_samples, to_segmentation
from maskserve.training.evaluate import ground_truth
from tests.training.datasets.coco_files import SQUARE, annotation, write_coco

NAN, ENDLESS = float("nan"), float("inf")
RLE = {"size": [60, 80], "counts": [700, 100, 4000]}
VALUES: list[tuple[str, str, Any, str]] = [
    ("images", "height", None, r"images\[0\]: it has no size: \(None, 80\) px"),
    ("images", "width", 0, r"images\[0\]: it has no size"),
    ("images", "width", ENDLESS, r"images\[0\]: it has no size"),
    ("images", "id", [1], r"images\[0\]: its id"),
    ("images", "file_name", None, r"images\[0\]: its file_name"),
    ("images", "file_name", "a\0.jpg", r"images\[0\]: its file_name"),
    ("categories", "id", "c1", r"categories\[0\]: its id 'c1' is no whole number"),
    ("images", "file_name", "\ud800.jpg", r"images\[0\]: its file_name"),
    ("categories", "name", " ", r"categories\[0\]: its name ' ' is none"),
    ("categories", "name", "red\ud800", r"categories\[0\]: its name 'red\\ud800' is none"),
    ("annotations", "image_id", [1], r"annotations\[0\]: its image_id"),
    ("annotations", "id", "9f0-ab", r"annotations\[0\]: its id '9f0-ab' is no whole number"),
    ("annotations", "category_id", [1], r"annotations\[0\]: its category_id"),
    ("annotations", "bbox", [], r"annotation 1: its bbox \[\]"),
    ("annotations", "bbox", None, r"annotation 1: its bbox"),
    ("annotations", "bbox", ["1", 2, 3, 4], r"annotation 1: its bbox"),
    ("annotations", "bbox", [1, 2, 3, NAN], r"annotation 1: its bbox"),
    ("annotations", "bbox", [1, 2, 3, 10**400], r"annotation 1: its bbox"),
    ("annotations", "iscrowd", None, r"annotation 1: its iscrowd"),
    ("annotations", "area", "big", r"annotation 1: its iscrowd or area"),
    ("annotations", "segmentation", [1, 2, 3, 4, 5, 6], r"annotation 1: its segmentation"),
    ("annotations", "segmentation", [None], r"annotation 1: its segmentation"),
    ("annotations", "segmentation", [["1", 2, 3, 4, 5, 6]], r"annotation 1: its segmentation"),
    ("annotations", "segmentation", [[1, 2, 30, 4, 5, 60, 7]], r"annotation 1: its segmentation"),
    ("annotations", "segmentation", [[1, 2, 30, 4, 5, ENDLESS]], r"annotation 1: its segmentation"),
    ("annotations", "segmentation", [[1, 2, 30, 4, 5, 1e9]], r"annotation 1: its segmentation reaches further"),
    ("annotations", "segmentation", {"size": [60, 80]}, r"annotation 1: its RLE"),
    ("annotations", "segmentation", {**RLE, "size": [60.0, 80.0]}, r"annotation 1: its RLE"),
    ("annotations", "segmentation", {**RLE, "size": [-60, -80]}, r"annotation 1: its RLE"),
    ("annotations", "segmentation", {**RLE, "counts": [10, 20]}, r"annotation 1: its RLE"),
    ("annotations", "segmentation", {**RLE, "counts": [-1, 4801]}, r"annotation 1: its RLE"),
    ("annotations", "segmentation", {**RLE, "counts": "zzz1"}, r"annotation 1: its RLE"),
    ("annotations", "segmentation", {**RLE, "size": [10**9, 10**9], "counts": "04"}, r"annotation 1: its RLE"),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    return write_coco(folder / "train.json", [annotation(1, [SQUARE]), annotation(2, RLE), annotation(3, [SQUARE])])


def with_value(good: Path, key: str, field: str, value: Any) -> Path:
    content = copy.deepcopy(json.loads(good.read_text()))
    content[key][0][field] = value
    path = good.with_name("changed.json")
    path.unlink(missing_ok=True)  # its time stamp may be the same
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(("key", "field", "value", "says"), VALUES)
def test_a_value_that_cannot_be_is_named(good: Path, key: str, field: str, value: Any, says: str) -> None:
    path = with_value(good, key, field, value)
    with pytest.raises(DataError, match=rf"changed\.json(: |, ){says}"):
        load_manifest(path)
    (broken,) = [finding for finding in check([path]).findings if finding.level == "error"]
    assert broken.code == "broken-file"


def test_ids_that_cannot_be_put_in_order_are_named(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "train.json", [], photos=("a.jpg", "b.jpg"))
    with pytest.raises(DataError, match=r"changed\.json: some images have a number as id and some a text"):
        load_manifest(with_value(path, "images", "id", "one"))


def draw(path: Path) -> None:
    for sample in find_samples(path):
        to_segmentation(sample.masks, (60, 80), (30, 40), {name: 0 for name, _ in sample.masks})


def train(path: Path) -> None:
    """As far as labels are concerned, and its validation."""
    manifest = load_manifest(path)
    records = dataset_dicts(manifest)
    truth = ground_truth(manifest, {record["image_id"] for record in records})
    assert sum(len(record["annotations"]) for record in records) == len(truth.dataset["annotations"])


USES: list[Callable[[Path], object]] = [
    lambda path: check([path]),
    lambda path: fix(path, path.parent / "fixed"),
    lambda path: import_labels([path], path.parent / "imported"),
    draw,
    train,
]
NUMBERS = st.integers(-5, 5000) | st.floats() | st.just(10**400)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=3) | st.just("1"),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts"]), inner),
    max_leaves=12,
)
OUTLINES = st.lists(st.lists(st.integers(-9, 99) | st.floats(-1e9, 1e9), max_size=9), max_size=3)
FIELDS = [(key, field) for key, field, *_ in VALUES]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(FIELDS), ANYTHING | OUTLINES)
def test_any_value_is_used_or_refused_in_words(good: Path, place: tuple[str, str], value: Any) -> None:
    path = with_value(good, *place, value)
    for use in USES:
        with suppress(DataError), np.errstate(all="ignore"):
            use(path)


def test_numbers_may_be_written_as_other_programs_do(good: Path) -> None:
    """As 3.0, as "3"; and a file's name with backslashes."""
    (good.parent / "photos").mkdir(exist_ok=True)
    (good.parent / "photos/b.jpg").write_bytes((good.parent / "a.jpg").read_bytes())
    assert load_manifest(with_value(good, "annotations", "id", "3")).image_count == 1
    assert load_manifest(with_value(good, "images", "height", 60.0)).image_count == 1
    manifest = load_manifest(with_value(good, "images", "file_name", "photos\\b.jpg"))
    assert Path(dataset_dicts(manifest)[0]["file_name"]).is_file()
    assert not [finding for finding in check([manifest.path]).findings if finding.level == "error"]
