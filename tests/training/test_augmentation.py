"""Whatever INPUT keys are on, masks and boxes lie on what they label: red things of class 0, blue ones of class 1."""

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.structures import BoxMode, polygons_to_bitmask
from PIL import Image
from pycocotools import mask as coco_mask

from maskserve.training.loader import Mapper, train_loader
from maskserve.training.presets import ARMS, resolve_cfg

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools on numpy 2.4

COLOURS = ((250, 20, 20), (20, 20, 250))
CROSS = np.ones((3, 3), np.uint8)


def config(*overrides: str):
    pairs = ("INPUT.MIN_SIZE_TRAIN", "(96,)", "SOLVER.IMS_PER_BATCH", "4", *overrides)
    return resolve_cfg(ARMS["mobilenetv2"], preset="quick", recipe="none", class_count=2, seed=3, overrides=pairs)


@pytest.fixture
def records(tmp_path: Path):
    """Six photos with three things each; the corners are whole numbers, as people type them."""
    rng = np.random.default_rng(8)
    return [record(tmp_path / f"{index}.png", rng) for index in range(6)]


def record(path: Path, rng: np.random.Generator):
    height, width = (150, 210) if rng.random() < 0.5 else (200, 140)
    pixels = np.full((height, width, 3), 130, np.uint8)
    annotations = []
    for category in rng.integers(2, size=3):
        centre, reach = rng.integers(40, (width - 40, height - 40)), int(rng.integers(15, 40))
        corners = centre + rng.integers(reach // 2, reach, 2) * [[-1, -1], [1, -1], [1, 1], [-1, 1]]
        annotations = [a for a in annotations if apart(a["segmentation"][0], corners)]
        annotations.append(
            {
                "bbox": [*corners[0].tolist(), *corners[2].tolist()],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": int(category),
                "segmentation": [corners.ravel().tolist()],
            }
        )
    for a in annotations:
        points = np.reshape(a["segmentation"][0], (-1, 2))
        left, top, right, bottom = (*points.min(axis=0), *points.max(axis=0))
        pixels[top:bottom, left:right] = COLOURS[a["category_id"]]
    Image.fromarray(pixels).save(path)
    return {"file_name": str(path), "height": height, "width": width, "image_id": path.stem, "annotations": annotations}


def apart(flat: list[int], corners: np.ndarray) -> bool:
    one, other = np.reshape(flat, (-1, 2)), corners
    return bool((one.max(axis=0) < other.min(axis=0)).any() or (other.max(axis=0) < one.min(axis=0)).any())


def as_rle(records):
    for photo in records:
        size = photo["height"], photo["width"]
        for a in photo["annotations"]:
            a["segmentation"] = coco_mask.merge(coco_mask.frPyObjects(a["segmentation"], *size))
    return records


def bitmasks(sample) -> np.ndarray:
    masks, size = sample["instances"].gt_masks, sample["image"].shape[1:]
    if hasattr(masks, "tensor"):
        return masks.tensor.numpy()
    return np.array([polygons_to_bitmask(polygons, *size) for polygons in masks.polygons]).reshape(-1, *size)


def check(sample) -> None:
    """Inside each mask is its class's colour, and next to nothing of that colour is without a label."""
    pixels = sample["image"].numpy().transpose(1, 2, 0).astype(int)
    instances = sample["instances"]
    labelled = np.zeros((2, *pixels.shape[:2]), np.uint8)
    for mask, category in zip(bitmasks(sample), instances.gt_classes.tolist(), strict=True):
        assert near(pixels, category)[cv2.erode(mask.astype(np.uint8), CROSS) > 0].all()
        labelled[category] |= mask.astype(np.uint8)
    for category, mask in enumerate(labelled):
        coloured = cv2.erode(near(pixels, category).astype(np.uint8), CROSS) > 0
        assert (coloured & (cv2.dilate(mask, CROSS) == 0)).sum() <= 0.1 * coloured.sum() + 10
    boxes = instances.gt_masks.get_bounding_boxes().tensor
    assert len(instances) == 0 or (boxes - instances.gt_boxes.tensor).abs().max() < 1.5


def near(pixels: np.ndarray, category: int) -> np.ndarray:
    return (np.abs(pixels - COLOURS[category]) < 60).all(axis=2)


@pytest.mark.parametrize("cached", ["True", "False"])
@pytest.mark.parametrize("form", ["polygons", "rle"])
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("INPUT.MIN_SIZE_TRAIN", "(64,80,96)"),
        ("INPUT.SCALE_JITTER", "(0.5,2.0)"),
        ("INPUT.COPY_PASTE", "1.0"),
        ("INPUT.SCALE_JITTER", "(0.5,2.0)", "INPUT.COPY_PASTE", "0.5"),
    ],
    ids=["plain", "sizes", "jitter", "paste", "jitter and paste"],
)
def test_labels_lie_on_what_they_label(records, cached: str, form: str, more: tuple[str, ...]):
    records = as_rle(records) if form == "rle" else records
    np.random.seed(2)
    samples = [
        sample
        for batch in islice(train_loader(config("INPUT.CACHE_IMAGES", cached, *more), records), 6)
        for sample in batch
    ]
    for sample in samples:
        check(sample)
    assert sum(len(sample["instances"]) for sample in samples) > len(samples)


@pytest.mark.parametrize("cached", ["True", "False"])
def test_several_train_sizes_are_all_used(records, cached: str):
    cfg = config("INPUT.MIN_SIZE_TRAIN", "(64,80,96)", "INPUT.CACHE_IMAGES", cached)
    np.random.seed(0)
    sizes = {min(s["image"].shape[1:]) for batch in islice(train_loader(cfg, records), 8) for s in batch}
    assert sizes == {64, 80, 96}


def test_a_photo_in_memory_is_as_large_as_any_step_asks_for(records):
    plain, jitter = (config("INPUT.MIN_SIZE_TRAIN", "(64,80)", *more) for more in ((), ("INPUT.SCALE_JITTER", "(1,2)")))
    assert min(Mapper(plain, records).shrink(records[0])["pixels"].shape[:2]) == 80
    assert min(Mapper(jitter, records).shrink(records[0])["pixels"].shape[:2]) == 160


def test_jittered_photos_are_never_larger_than_their_training_size(records):
    np.random.seed(0)
    mapper, plain = (Mapper(config(*more), records) for more in (("INPUT.SCALE_JITTER", "(0.5,2.0)"), ()))
    full = tuple(plain(records[0])["image"].shape[1:])
    shapes = [tuple(mapper(records[0])["image"].shape[1:]) for _ in range(30)]
    assert all(height <= full[0] and width <= full[1] for height, width in shapes)
    assert shapes.count(full) in range(10, 30)
    assert min(min(shape) for shape in shapes) < 0.7 * min(full)


@pytest.mark.parametrize("more", [("INPUT.COPY_PASTE", "1.0"), ("INPUT.SCALE_JITTER", "(0.5,1.5)")])
def test_the_same_seed_gives_the_same_batches(records, more: tuple[str, ...]):
    streams = []
    for _ in range(2):
        np.random.seed(0)
        streams.append([s for batch in islice(train_loader(config(*more), records), 3) for s in batch])
    for one, other in zip(*streams, strict=True):
        assert (one["image"] == other["image"]).all()
        assert (one["instances"].gt_boxes.tensor == other["instances"].gt_boxes.tensor).all()


def test_mapping_a_photo_leaves_its_record_as_it_was(records):
    mapper = Mapper(config("INPUT.COPY_PASTE", "1.0"), records)
    small = mapper.shrink(records[0])
    polygons = [np.array(a["segmentation"][0]) for a in small["annotations"]]
    for _ in range(3):
        mapper(small)
    for a, before in zip(small["annotations"], polygons, strict=True):
        assert (a["segmentation"][0] == before).all()


def test_a_photo_without_labels_can_be_jittered(records):
    records[0]["annotations"] = []
    mapper = Mapper(config("INPUT.SCALE_JITTER", "(0.5,2.0)"), records)
    assert len(mapper(records[0])["instances"]) == 0


def test_photos_without_labels_get_pasted_ones_too(records):
    for photo in records[1:]:
        photo["annotations"] = []
    cfg = config("INPUT.COPY_PASTE", "1.0", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False")
    mapper = Mapper(cfg, records)
    np.random.seed(0)
    counts = [len(mapper(records[1])["instances"]) for _ in range(40)]
    assert 0 < sum(count > 0 for count in counts) < 40  # five of the six donors have nothing to paste
