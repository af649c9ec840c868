"""The contact sheet shows labelled photos of any source with their masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from maskserve.imaging.sheet import GAP_PX
from maskserve.protos.errors import DataError
from maskserve.training.datasets.importing import ImportOptions, import_labels
from maskserve.training.datasets.samples import find_samples, to_segmentation
from maskserve.training.datasets.show import CELL_PX, contact_sheet
from tests.training.datasets.labelme_files import square, write_labelme


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(7):
        write_labelme(tmp_path / "in" / str(number), [square("cat", 10, 5, 40)])
    return tmp_path / "in"


def test_labelme_folder_and_manifest_give_the_same_sheet(folder: Path, tmp_path: Path) -> None:
    import_labels([folder], tmp_path / "out", ImportOptions(test_fraction=0))
    sheet = contact_sheet(folder)
    assert sheet.dtype == np.uint8
    assert np.array_equal(sheet, contact_sheet(tmp_path / "out"))


def test_the_sheet_holds_the_wanted_number_and_the_seed_chooses(folder: Path) -> None:
    one = contact_sheet(folder, count=1, seed=0)
    assert one.shape == (CELL_PX + 2 * GAP_PX, CELL_PX + 2 * GAP_PX, 3)
    assert np.array_equal(one, contact_sheet(folder, count=1, seed=0))
    assert any(not np.array_equal(one, contact_sheet(folder, count=1, seed=seed)) for seed in range(1, 5))


def test_masks_scale_with_their_photo(folder: Path) -> None:
    sample = find_samples(folder)[0]
    segmentation = to_segmentation(sample.masks, (60, 80), (120, 160), {"cat": 0})
    (instance,) = segmentation.instances
    assert instance.box_xyxy == (20, 10, 100, 90)
    assert segmentation.coverage.by_class["cat"] == pytest.approx(80 * 80 / (120 * 160))


def test_rle_masks_are_drawn_as_well(folder: Path, tmp_path: Path) -> None:
    import_labels([folder], tmp_path / "out", ImportOptions(test_fraction=0))
    path = tmp_path / "out/train.json"
    manifest = json.loads(path.read_text())
    for annotation in manifest["annotations"]:
        annotation["segmentation"] = {"size": [60, 80], "counts": [600, 1200, 3000]}
    path.write_text(json.dumps(manifest))
    (instance,) = to_segmentation(find_samples(path)[0].masks, (60, 80), (60, 80), {"cat": 0}).instances
    assert instance.area_px == 1200


def test_a_photo_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "3.jpg").write_text("no photo")
    with pytest.raises(DataError, match=r"3\.jpg"):
        contact_sheet(folder)


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no labelme JSON"):
        contact_sheet(tmp_path)


@pytest.mark.kit
def test_coco_photos_are_shown(kit: Path) -> None:
    assert contact_sheet(kit / "datasets/tiny_coco", count=6).shape[2] == 3
