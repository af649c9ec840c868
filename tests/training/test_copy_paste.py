"""Copy-paste: which pixels change, which masks lose what is hidden, which labels go."""

import cv2
import numpy as np
import pytest
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from maskserve.training import copy_paste
from maskserve.training.copy_paste import paste, paste_instances

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools on numpy 2.4

SIDES = st.integers(1, 9)


def block(size: tuple[int, int], top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


@given(SIDES, SIDES, SIDES, SIDES, st.integers(-12, 12), st.integers(-12, 12), st.integers(0, 2**31))
def test_the_donors_masks_cover_and_everything_else_stays(height, width, tall, wide, top, left, seed):
    rng = np.random.default_rng(seed)
    pixels, donor = (
        rng.integers(0, 100, (height, width, 3), np.uint8),
        rng.integers(100, 200, (tall, wide, 3), np.uint8),
    )
    masks, donor_masks = rng.random((3, height, width)) < 0.5, rng.random((2, tall, wide)) < 0.5
    before = pixels.copy()
    out, visible, placed = paste(pixels, masks, donor, donor_masks, (top, left))
    assert (pixels == before).all()
    for y in range(height):
        for x in range(width):
            from_y, from_x = y - top, x - left
            inside = 0 <= from_y < tall and 0 <= from_x < wide
            assert placed[:, y, x].tolist() == (donor_masks[:, from_y, from_x].tolist() if inside else [False, False])
            covered = placed[:, y, x].any()
            assert (out[y, x] == (donor[from_y, from_x] if covered else pixels[y, x])).all()
            assert visible[:, y, x].tolist() == ([False] * 3 if covered else masks[:, y, x].tolist())


def record(size: tuple[int, int], grey: int, *masks: tuple[int, np.ndarray]) -> dict:
    annotations = [
        {
            "bbox": cv2.boundingRect(mask.astype(np.uint8)),
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": category,
            "segmentation": coco_mask.encode(np.asfortranarray(mask, np.uint8)),
        }
        for category, mask in masks
    ]
    return {"pixels": np.full((*size, 3), grey, np.uint8), "annotations": annotations}


def test_a_hidden_instance_loses_its_label_and_a_half_hidden_one_gets_a_smaller_box(monkeypatch):
    size = (20, 30)
    photo = record(
        size, 10, (0, block(size, 7, 0, 15, 18)), (1, block(size, 5, 10, 16, 18)), (2, block(size, 0, 25, 3, 30))
    )
    donor = record((25, 30), 200, (7, block((25, 30), 9, 8, 19, 16)))
    monkeypatch.setattr(copy_paste, "_random_offset", lambda *_: (-4, 2))
    pasted = paste_instances(photo, donor)
    kept = {a["category_id"]: a for a in pasted["annotations"]}
    assert set(kept) == {0, 2, 7}
    assert kept[0]["bbox"] == [0, 7, 10, 15]
    assert coco_mask.area(kept[0]["segmentation"]) == 80
    assert kept[7]["bbox"] == [10, 5, 18, 15]
    assert kept[2] is photo["annotations"][2]
    assert (pasted["pixels"] == 200).all(axis=2).sum() == 80
    assert (photo["pixels"] == 10).all()


@pytest.mark.parametrize(("size", "donor_size"), [((30, 40), (20, 25)), ((12, 10), (20, 18))])
def test_a_small_group_lies_inside_and_a_large_one_covers_the_photo(size, donor_size):
    np.random.seed(0)
    mask = block(donor_size, 3, 4, donor_size[0] - 2, donor_size[1] - 1)
    places = set()
    for _ in range(50):
        pasted = paste_instances(record(size, 10), record(donor_size, 200, (1, mask)))
        (annotation,) = pasted["annotations"]
        places.add(tuple(annotation["bbox"]))
        assert coco_mask.area(annotation["segmentation"]) == min(mask.sum(), size[0] * size[1])
    assert len(places) > 20 or donor_size > size


@pytest.mark.parametrize(("last", "box"), [(False, [0, 0, 20, 15]), (True, [20, 15, 40, 30])])
def test_a_group_may_lie_at_each_edge(monkeypatch, last: bool, box: list[int]):
    monkeypatch.setattr(np.random, "randint", lambda low, end=1: end - 1 if last else low % end)
    donor = record((20, 25), 200, (1, block((20, 25), 3, 4, 18, 24)))
    (annotation,) = paste_instances(record((30, 40), 10), donor)["annotations"]
    assert annotation["bbox"] == box


def test_at_least_one_instance_is_pasted_and_not_always_all():
    np.random.seed(0)
    size = (40, 40)
    donor = record(size, 200, *((index, block(size, 10 * index, 0, 10 * index + 8, 8)) for index in range(4)))
    counts = [len(paste_instances(record((90, 90), 10), donor)["annotations"]) for _ in range(60)]
    assert min(counts) == 1
    assert len(set(counts)) == 4


def test_a_donor_without_labels_changes_nothing():
    photo = record((9, 9), 10)
    assert paste_instances(photo, record((9, 9), 200)) is photo
