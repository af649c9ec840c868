"""Labelled photos ─▶ batches for Detectron2's trainer.

    records ─▶ read (or from memory) ─▶ resize, crop ─▶ paste ─▶ flip, colours ─▶ Instances ─▶ batches of like shape

`INPUT.CACHE_IMAGES` keeps every photo in memory at its (largest) training size, so that a step never decodes a JPEG: at
128 px, 200 photos take 13 MB and a step of the quick preset spends 2 % of its time here instead of a quarter.

Every random number of a photo's way comes from the seed, in the workers too: each starts from the seed that the
trainer drew for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, build_detection_train_loader, detection_utils
from detectron2.data import transforms as T
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from pycocotools import mask as coco_mask

from maskserve.imaging.decode import Size
from maskserve.modeling.machine import allowed_cores
from maskserve.protos.errors import DataError
from maskserve.training.copy_paste import SCALES, paste_instances
from maskserve.training.datasets.photos import decode_as_served, decode_photo
from maskserve.training.resize import for_memory, for_steps

Record = dict[str, Any]
MOST_WORKERS = 8
FEW_CORES = 2


class Mapper:
    """A record of `dataset_dicts` ─▶ what a Detectron2 model trains on (image float-able CHW tensor, Instances)."""

    def __init__(self, cfg: CfgNode, records: Iterable[Record]) -> None:
        self.bgr = cfg.INPUT.FORMAT == "BGR"
        self.resize, self.resize_for_memory = for_steps(cfg), for_memory(cfg)
        self.crops = cfg.INPUT.SCALE_JITTER[1] > 1
        flips = _flips(cfg.INPUT.RANDOM_FLIP)
        self.augmentations = [*flips, *_colour_jitter(cfg.INPUT.COLOR_JITTER)]
        self.copy_paste = cfg.INPUT.COPY_PASTE
        self.donor_augmentations = [_donor_resize(cfg), *flips]
        self.donors: Sequence[Record] = list(records)
        # polygons are cropped faster, but one mask that came as RLE turns all into bitmaps
        segments = [annotation["segmentation"] for record in self.donors for annotation in record["annotations"]]
        polygons = not self.copy_paste and all(isinstance(segment, list) for segment in segments)
        self.mask_format = "polygon" if polygons else "bitmask"

    def shrink(self, record: Record) -> Record:
        """The record at its largest training size, its pixels with it."""
        return self._apply(record, [self.resize_for_memory])

    def __call__(self, record: Record) -> Record:
        if self.copy_paste > 0 and np.random.random() < self.copy_paste:
            record = self._apply(self._pasted(record), self.augmentations)
        else:
            record = self._apply(record, [self.resize, *self.augmentations])
        pixels = record["pixels"]
        size = pixels.shape[:2]
        if self.bgr:
            pixels = pixels[:, :, ::-1]
        instances = detection_utils.annotations_to_instances(record["annotations"], size, self.mask_format)
        if self.crops and len(instances):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return {
            "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            "instances": detection_utils.filter_empty_instances(instances),
            "height": size[0],
            "width": size[1],
        }

    def _pasted(self, record: Record) -> Record:
        donor = self.donors[np.random.randint(len(self.donors))]
        return paste_instances(self._apply(record, [self.resize]), self._apply(donor, self.donor_augmentations))

    def _apply(self, record: Record, augmentations: list[T.Augmentation]) -> Record:
        view = T.AugInput(record["pixels"] if "pixels" in record else read_photo(record))
        done = T.AugmentationList(augmentations)(view)
        size = view.image.shape[:2]
        annotations = [
            _as_lists(detection_utils.transform_instance_annotations(_copied(annotation), done, size))
            for annotation in record["annotations"]
            if not annotation.get("iscrowd")
        ]
        return {"pixels": view.image, "annotations": annotations, "height": size[0], "width": size[1]}


def train_loader(cfg: CfgNode, records: list[Record], *, first_step: int = 0) -> Iterable[list[Record]]:
    """An endless stream of batches, the same for the same seed; a resumed run goes on with another shuffle.

    A batch is what one forward takes: IMS_PER_BATCH over ACCUMULATE and over the number of processes.

    Raises:
        DataError: no photo has a label.
    """
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = [record for record in records if any(not a.get("iscrowd") for a in record["annotations"])]
    if not records:
        raise DataError("no photo of the training split has a label; check it with `maskserve data check`")
    mapper = Mapper(cfg, records)
    if cfg.INPUT.CACHE_IMAGES:
        records = [mapper.shrink(record) for record in records]
    photos = mapper.donors = DatasetFromList(records)  # packed, so that processes share it
    loader: Iterable[list[Record]] = build_detection_train_loader(
        photos,
        mapper=mapper,
        sampler=TrainingSampler(len(records), seed=cfg.SEED + first_step),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH // cfg.SOLVER.ACCUMULATE,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=_workers(cfg),
    )
    return loader


def _workers(cfg: CfgNode) -> int:
    if cfg.DATALOADER.NUM_WORKERS >= 0:
        return int(cfg.DATALOADER.NUM_WORKERS)
    return auto_workers(
        cached=cfg.INPUT.CACHE_IMAGES,
        cores=allowed_cores(),
        gpu=cfg.MODEL.DEVICE.startswith("cuda"),
        processes=comm.get_local_size(),
    )


def auto_workers(*, cached: bool, cores: int, gpu: bool, processes: int) -> int:
    """Processes that read photos for each of the `processes` that train on this machine.

    None where they can only lose: photos in memory need no reading, and on two cores without a GPU the network keeps
    both busy. Otherwise a core each, at most eight: idle ones cost memory alone, and eight keep up with one GPU.
    """
    if cached or (cores <= FEW_CORES and not gpu):
        return 0
    return max(1, min(MOST_WORKERS, cores // processes))


def spread(records: Sequence[Record], most: int) -> list[Record]:
    """At most so many of the records, spread evenly over them."""
    count = min(most, len(records))
    return [records[index * len(records) // count] for index in range(count)]


def read_photo(record: Record) -> np.ndarray:
    """uint8 (H, W, 3) RGB, upright; DataError when it is missing, unreadable, or not of the size its labels are for."""
    return _read(record, _decode_whole)[0]


def read_as_served(record: Record, seen_at: Callable[[Size], Size]) -> tuple[np.ndarray, Size]:
    """What the predictor gets of a photo when it is served (pixels, size); see `decode_as_served`. Raises as above."""
    return _read(record, partial(decode_as_served, seen_at=seen_at))


def _read(record: Record, decode: Callable[[bytes], tuple[np.ndarray, Size]]) -> tuple[np.ndarray, Size]:
    path = Path(record["file_name"])
    try:
        pixels, size = decode(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: the manifest names this photo, but it cannot be read: {error.strerror}") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    expected = (record["height"], record["width"])
    if size != expected:
        raise DataError(f"{path} is {size} (height, width), its labels are for {expected}; run data check")
    return pixels, size


def _decode_whole(data: bytes) -> tuple[np.ndarray, Size]:
    pixels = decode_photo(data)
    return pixels, (pixels.shape[0], pixels.shape[1])


def _copied(annotation: dict[str, Any]) -> dict[str, Any]:
    """With its own numbers, all of them float: transforms work in place, and an array of whole numbers stays whole."""
    segment = annotation["segmentation"]
    if isinstance(segment, list):
        segment = [np.array(polygon, float) for polygon in segment]
    return {**annotation, "bbox": [float(value) for value in annotation["bbox"]], "segmentation": segment}


def _as_lists(annotation: dict[str, Any]) -> dict[str, Any]:
    """Undo what the next transform could not read: a mask array becomes RLE again."""
    if isinstance(annotation["segmentation"], np.ndarray):
        annotation["segmentation"] = coco_mask.encode(np.asfortranarray(annotation["segmentation"], dtype=np.uint8))
    return annotation


def _donor_resize(cfg: CfgNode) -> T.Augmentation:
    sizes, (low, high) = cfg.INPUT.MIN_SIZE_TRAIN, SCALES
    span = round(min(sizes) * low), round(max(sizes) * high)
    return T.ResizeShortestEdge(span, round(cfg.INPUT.MAX_SIZE_TRAIN * high), "range")


def _flips(direction: str) -> list[T.Augmentation]:
    if direction == "none":
        return []
    return [T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical")]


def _colour_jitter(amount: float) -> list[T.Augmentation]:
    if amount <= 0:
        return []
    low, high = 1 - amount, 1 + amount
    return [T.RandomBrightness(low, high), T.RandomContrast(low, high), T.RandomSaturation(low, high)]
