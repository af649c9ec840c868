"""Batches: the same from the same seed, labels that follow the pixels, masks in any COCO form."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from maskserve.protos.errors import DataError
from maskserve.training.datasets.manifest import dataset_dicts, load_dataset
from maskserve.training.loader import Mapper, auto_workers, read_as_served, train_loader
from maskserve.training.presets import ARMS, resolve_cfg


def config(*overrides: str):
    pairs = ("INPUT.MIN_SIZE_TRAIN", "(64,)", "SOLVER.IMS_PER_BATCH", "2", *overrides)
    return resolve_cfg(ARMS["mobilenetv2"], preset="quick", recipe="none", class_count=2, seed=3, overrides=pairs)


@pytest.fixture
def records(pandas: Path):
    return dataset_dicts(load_dataset(pandas).train)


def as_rle(records):
    """The same labels as RLE."""
    for record in records:
        size = record["height"], record["width"]
        for annotation in record["annotations"]:
            annotation["segmentation"] = coco_mask.merge(coco_mask.frPyObjects(annotation["segmentation"], *size))
    return records


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools on numpy 2.4
@pytest.mark.parametrize("cached", ["True", "False"])
@pytest.mark.parametrize("form", ["polygons", "rle"])
def test_boxes_and_masks_follow_the_resized_photo(records, cached: str, form: str):
    cfg = config("INPUT.CACHE_IMAGES", cached)
    records = as_rle(records) if form == "rle" else records
    for batch in islice(train_loader(cfg, records), 4):
        for sample in batch:
            height, width = sample["image"].shape[1:]
            assert min(height, width) == 64
            assert sample["image"].dtype.itemsize == 1
            instances = sample["instances"]
            boxes = instances.gt_masks.get_bounding_boxes().tensor
            assert len(instances) > 0
            assert (boxes - instances.gt_boxes.tensor).abs().max() < 3


def test_the_same_seed_gives_the_same_batches(records):
    streams = []
    for _ in range(2):
        np.random.seed(0)
        streams.append([sample["image"] for batch in islice(train_loader(config(), records), 3) for sample in batch])
    assert all((one == other).all() for one, other in zip(*streams, strict=True))


def test_crowds_are_not_trained_on(records):
    records[0]["annotations"][0]["iscrowd"] = 1
    sample = Mapper(config(), records)(records[0])
    assert len(sample["instances"]) == len(records[0]["annotations"]) - 1


def test_bgr_models_get_their_channels_swapped(records):
    rgb, bgr = (Mapper(config("INPUT.FORMAT", order), records) for order in ("RGB", "BGR"))
    for mapper in (rgb, bgr):
        mapper.augmentations = []
    assert (rgb(records[0])["image"].flip(0) == bgr(records[0])["image"]).all()


@pytest.mark.parametrize(("direction", "axis"), [("horizontal", 2), ("vertical", 1), ("none", None)])
def test_photos_are_mirrored_as_the_config_says(records, direction: str, axis: int | None):
    def seen(direction: str) -> list[np.ndarray]:
        mapper = Mapper(config("INPUT.RANDOM_FLIP", direction, "INPUT.SCALE_JITTER", "(1.0,1.0)"), records)
        return [mapper(records[0])["image"].numpy() for _ in range(24)]

    upright = seen("none")[0]
    wanted = [upright] if axis is None else [upright, np.flip(upright, axis)]
    for pixels in seen(direction):
        assert any((pixels == one).all() for one in wanted)
    for one in wanted:
        assert any((pixels == one).all() for pixels in seen(direction))


def test_colours_vary_both_ways_and_only_where_the_config_says_so(records):
    def brightness(amount: str) -> list[float]:
        np.random.seed(0)
        mapper = Mapper(config("INPUT.COLOR_JITTER", amount, "INPUT.SCALE_JITTER", "(1.0,1.0)"), records)
        return [float(mapper(records[0])["image"].float().mean()) for _ in range(12)]

    plain = brightness("0.0")
    assert max(plain) - min(plain) < 1e-3  # they may be mirrored
    assert min(brightness("0.3")) < plain[0] - 5
    assert max(brightness("0.3")) > plain[0] + 5


def test_photos_without_any_label_are_said(records):
    for record in records:
        record["annotations"] = []
    with pytest.raises(DataError, match="data check"):
        train_loader(config(), records)


def test_a_missing_photo_is_named(records):
    records[0]["file_name"] = "/nowhere/panda.jpg"
    with pytest.raises(DataError, match=r"/nowhere/panda\.jpg"):
        Mapper(config(), records)(records[0])


@pytest.mark.parametrize(
    ("machine", "workers"),
    [
        ({"cached": True, "cores": 64, "gpu": True, "processes": 1}, 0),
        ({"cached": False, "cores": 2, "gpu": False, "processes": 1}, 0),
        ({"cached": False, "cores": 2, "gpu": True, "processes": 1}, 2),
        ({"cached": False, "cores": 4, "gpu": False, "processes": 1}, 4),
        ({"cached": False, "cores": 64, "gpu": True, "processes": 1}, 8),
        ({"cached": False, "cores": 16, "gpu": True, "processes": 8}, 2),
        ({"cached": False, "cores": 4, "gpu": True, "processes": 8}, 1),
    ],
)
def test_workers_are_as_many_as_help_on_the_machine(machine: dict, workers: int):
    assert auto_workers(**machine) == workers


def test_a_batch_is_a_part_of_a_step(records):
    batch = next(iter(train_loader(config("SOLVER.IMS_PER_BATCH", "4", "SOLVER.ACCUMULATE", "2"), records)))
    assert len(batch) == 2


def test_workers_give_the_same_photos_from_the_same_seed(records):
    cfg = config("INPUT.CACHE_IMAGES", "False", "DATALOADER.NUM_WORKERS", "2", "INPUT.COLOR_JITTER", "0.3")
    streams = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        streams.append([sample["image"] for batch in islice(train_loader(cfg, records), 3) for sample in batch])
    first, second, other = streams
    assert all(torch.equal(one, same) for one, same in zip(first, second, strict=True))
    assert not all(torch.equal(one, another) for one, another in zip(first, other, strict=True))


def test_a_photo_is_read_as_the_server_reads_it_and_what_it_refuses_still_is(tmp_path: Path):
    big = Image.new("RGB", (2000, 1504), (200, 80, 40))
    records = []
    for name in ("big.jpg", "big.bmp"):
        big.save(tmp_path / name)
        records.append({"file_name": str(tmp_path / name), "height": 1504, "width": 2000})
    (served, size), (refused, same_size) = (read_as_served(record, lambda _size: (300, 400)) for record in records)
    assert size == same_size == (1504, 2000)
    assert (served.shape, refused.shape) == ((752, 1000, 3), (1504, 2000, 3))
    with pytest.raises(DataError, match=r"labels are for \(7"):
        read_as_served({**records[0], "height": 7}, lambda _size: (300, 400))
