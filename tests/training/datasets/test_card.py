"""The data card's numbers are those of the labels, and its page stands alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from maskserve.training.datasets.card import Card, card_page, data_card
from maskserve.training.datasets.check import check
from maskserve.training.datasets.importing import import_labels
from maskserve.training.datasets.manifest import load_manifest
from tests.training.datasets.coco_files import annotation, write_coco
from tests.training.datasets.labelme_files import photo_bytes, square, write_labelme


def _labelled(folder: Path) -> Path:
    """Two photos of 200×100 px to train on, one of 100×100 px to test on, the last without an object."""
    wide, other, high = photo_bytes((100, 200)), photo_bytes((100, 200), seed=2), photo_bytes((100, 100), seed=1)
    shapes = [square("cat", 10, 10, 20), square("cat", 50, 10, 50), square("<dog>", 0, 0, 100)]
    write_labelme(folder / "train/a", shapes, size=(100, 200), photo=wide)
    write_labelme(folder / "train/b", [square("cat", 10, 10, 20)], size=(100, 200), photo=other)
    write_labelme(folder / "test/c", [], size=(100, 100), photo=high)
    return folder


def _card(path: Path, **words: str) -> Card:
    return data_card(path, check([path]), title="Cats & <dogs>", **words)


def _counted(bins: object) -> dict[str, int]:
    return {one.label: one.count for one in bins if one.count}  # type: ignore[attr-defined]


def test_outlines_of_any_size_are_counted(tmp_path: Path) -> None:
    huge = [-1e5, -1e5, 1e5, -1e5, 1e5, 1e5]
    square_of_32, square_of_96 = ([0, 0, side, 0, side, side, 0, side] for side in (32, 96))
    outlines = (huge, square_of_32, square_of_96)
    annotations = [annotation(number, [outline]) for number, outline in enumerate(outlines, 1)]
    write_coco(tmp_path / "train.json", annotations, size=(100, 100))
    assert _card(tmp_path).object_sizes["cat"] == {"small": 0, "medium": 1, "large": 2}


def test_the_numbers_are_those_of_the_labels(tmp_path: Path) -> None:
    card = _card(_labelled(tmp_path))
    assert card.photos == {"train": 2, "test": 1}
    assert card.objects == {"<dog>": {"train": 1, "test": 0}, "cat": {"train": 3, "test": 0}}
    assert card.object_sizes["cat"] == {"small": 2, "medium": 1, "large": 0}
    assert card.object_sizes["<dog>"] == {"small": 0, "medium": 0, "large": 1}
    assert _counted(card.photo_sizes) == {"200×100": 2, "100×100": 1}
    assert _counted(card.area_shares) == {"1–3 %": 2, "10–30 %": 1, "30–100 %": 1}
    assert _counted(card.objects_per_photo) == {"0": 1, "1": 1, "3–4": 1}
    assert card.findings["no-labels"]["count"] == 1
    assert card.findings["no-labels"]["level"] == "warning"


def test_a_set_without_splits_has_one_column(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a", [square("cat")])
    assert _card(tmp_path).objects == {"cat": {"all": 1}}


def test_the_hash_of_a_dataset_is_the_one_that_a_training_writes_down(tmp_path: Path) -> None:
    import_labels([_labelled(tmp_path / "in")], tmp_path / "set")
    assert _card(tmp_path / "set").data_hash == load_manifest(tmp_path / "set/train.json").data_hash


def test_the_hash_of_labelme_files_changes_with_a_label_and_with_a_photo_only(tmp_path: Path) -> None:
    hashes = [_card(_labelled(tmp_path / "a")).data_hash, _card(_labelled(tmp_path / "b")).data_hash]
    write_labelme(tmp_path / "b/test/c", [square("cat")], size=(100, 100), photo=photo_bytes((100, 100), seed=1))
    hashes.append(_card(tmp_path / "b").data_hash)
    write_labelme(tmp_path / "b/test/c", [square("cat")], size=(100, 100), photo=photo_bytes((100, 100), seed=9))
    hashes.append(_card(tmp_path / "b").data_hash)
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_the_page_needs_no_network_and_runs_no_script(tmp_path: Path) -> None:
    card = _card(_labelled(tmp_path), source="our <b>garden</b>", licence="CC BY 4.0")
    page = card_page(card, np.zeros((40, 60, 3), np.uint8))
    assert re.findall(r"(?:src|href)=\"(?!data:image/jpeg;base64,)", page) == []
    assert "@import" not in page
    assert "<script" not in page
    assert "Cats &amp; &lt;dogs&gt;" in page
    assert "our &lt;b&gt;garden&lt;/b&gt;" in page
    for fact in (card.data_hash, "CC BY 4.0", "200×100", "no-labels", "&lt;dog&gt;"):
        assert fact in page


def test_every_picture_of_the_page_has_a_text_in_its_place(tmp_path: Path) -> None:
    page = card_page(_card(_labelled(tmp_path)), np.zeros((40, 60, 3), np.uint8))
    pictures = re.findall(r"<(?:img|svg)\b[^>]*>", page)
    assert len(pictures) == 3
    assert all(re.search(r"(?:alt|aria-label)=\"\S+ \S+", picture) for picture in pictures)


def test_the_numbers_can_be_written_as_json(tmp_path: Path) -> None:
    told = json.loads(json.dumps(_card(_labelled(tmp_path)).as_json()))
    assert told["objects"]["cat"] == {"train": 3, "test": 0}
    assert told["photo_sizes"][0] == {"label": "200×100", "count": 2}
