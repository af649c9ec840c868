"""Drawn pandas: deterministic, labelled as a person would, all or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from shapely.geometry import Polygon

from maskserve.imaging.rle import decode_rle
from maskserve.protos.errors import DataError
from maskserve.protos.types import MaskRle
from maskserve.training.datasets.pandas import CLASS_NAMES, MIN_VISIBLE, compose, make_pandas, outlines

COUNT = 12


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "pandas"
    make_pandas(folder, train=COUNT, test=3, seed=7)
    return folder


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        make_pandas(tmp_path / name, train=2, test=1, seed=seed)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    assert _bytes(tmp_path / "a")["train/0000.jpg"] != _bytes(tmp_path / "c")["train/0000.jpg"]


def test_a_larger_set_begins_with_the_smaller_one(drawn: Path, tmp_path: Path) -> None:
    make_pandas(tmp_path / "small", train=2, test=1, seed=7)
    assert _bytes(tmp_path / "small").items() <= _bytes(drawn).items()


def test_each_photo_has_labelme_json_of_its_size_with_simple_polygons_inside_it(drawn: Path) -> None:
    assert len(list((drawn / "train").glob("*.jpg"))) == COUNT
    for path in drawn.rglob("*.json"):
        content = json.loads(path.read_text())
        height, width = content["imageHeight"], content["imageWidth"]
        with Image.open(path.parent / content["imagePath"]) as photo:
            assert photo.size == (width, height)
        for shape in content["shapes"]:
            outline = Polygon(shape["points"])
            assert shape["label"] in CLASS_NAMES
            assert outline.is_valid
            x_min, y_min, x_max, y_max = outline.bounds
            assert min(x_min, y_min) >= 0
            assert x_max <= width
            assert y_max <= height


def test_train_and_test_photos_differ(drawn: Path) -> None:
    assert (drawn / "train/0000.jpg").read_bytes() != (drawn / "test/0000.jpg").read_bytes()


def test_both_classes_and_both_orientations_occur(drawn: Path) -> None:
    contents = [json.loads(path.read_text()) for path in drawn.rglob("*.json")]
    assert {shape["label"] for content in contents for shape in content["shapes"]} == set(CLASS_NAMES)
    assert {content["imageHeight"] > content["imageWidth"] for content in contents} == {True, False}


def _filled(polygons: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    flat = [polygon.ravel().tolist() for polygon in polygons]
    rle = coco_mask.merge(coco_mask.frPyObjects(flat, *size))
    return decode_rle(MaskRle(size, rle["counts"].decode()))


@pytest.mark.parametrize("seed", range(6))
def test_the_polygons_of_an_animal_cover_what_is_visible_of_it(seed: int) -> None:
    scene = compose((360, 480), np.random.default_rng(seed))
    for _, alpha, area_px in scene.animals:
        if alpha.sum() > max(MIN_VISIBLE * area_px, 1500):
            visible, filled = alpha > 0.5, _filled(outlines(alpha), scene.size)
            assert (visible & filled).sum() / (visible | filled).sum() > 0.9


def test_an_animal_with_something_in_front_of_its_middle_gets_several_pieces_without_the_hole() -> None:
    alpha = np.zeros((120, 160), np.float32)
    cv2.circle(alpha, (80, 60), 50, 1.0, -1)
    cv2.circle(alpha, (80, 60), 20, 0.0, -1)
    pieces = outlines(alpha)
    filled = _filled(pieces, (120, 160))
    assert len(pieces) == 2
    assert not filled[60, 80]
    assert (filled & (alpha > 0.5)).sum() / (filled | (alpha > 0.5)).sum() > 0.95


def test_pieces_of_one_animal_share_a_group_id(tmp_path: Path) -> None:
    make_pandas(tmp_path / "many", train=30, test=0, seed=3)
    groups = [
        shape["group_id"]
        for path in (tmp_path / "many").rglob("*.json")
        for shape in json.loads(path.read_text())["shapes"]
    ]
    assert any(group is None for group in groups)
    assert any(group is not None for group in groups)


def test_a_folder_with_something_in_it_is_refused(drawn: Path) -> None:
    with pytest.raises(DataError, match="not an empty folder"):
        make_pandas(drawn, train=1, test=1, seed=1)


def test_stopped_in_the_middle_it_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_pandas(tmp_path / "deep" / "pandas", train=2, test=1, seed=1, on_photo=stop)
    assert list(tmp_path.iterdir()) == []
