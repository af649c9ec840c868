"""COCO box and mask AP of the very predictor that is served.

    photos ─▶ Predictor ─▶ every instance above the model's lowest threshold ─▶ masks as RLE ─▶ pycocotools ─▶ AP

AP is the mean over IoU 0.50:0.05:0.95, AP50 and AP75 at one IoU, all in per cent; None where a split has no instance.
An object's size is its mask's area, as COCO has it: small below 32² px, medium below 96² px, else large.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskserve.modeling.paste import paste_masks
from maskserve.modeling.predictor import Prediction, Predictor
from maskserve.training.datasets.coco import read_coco
from maskserve.training.datasets.manifest import Manifest, dataset_dicts, usable_mask
from maskserve.training.loader import Record, read_as_served

KINDS = ("bbox", "segm")
SIZES = ("small", "medium", "large")
AP, AP50, AP75, FIRST_SIZE = 0, 1, 2, 3
"""Places in COCOeval.stats."""
Ap = float | None


@dataclass(frozen=True)
class Scores:
    """Average precisions of boxes or masks, per cent."""

    ap: Ap
    ap50: Ap
    ap75: Ap
    per_class: Mapping[str, Ap]
    """AP."""
    per_class_ap50: Mapping[str, Ap]
    per_size: Mapping[str, Ap]
    """AP of small, medium and large objects."""


@dataclass(frozen=True)
class Evaluation:
    """What a model reaches on one split."""

    split: str
    image_count: int
    instance_count: int
    data_hash: str
    box: Scores
    mask: Scores
    inference_ms_mean: float
    """The network alone, one photo at a time."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    predictor: Predictor,
    manifest: Manifest,
    *,
    split: str,
    image_ids: Collection[Any] | None = None,
    on_photo: Callable[[], None] = lambda: None,
) -> Evaluation:
    """AP of `predictor` on the photos of a manifest, or on those of `image_ids`.

    Raises:
        DataError: a photo is missing or unreadable.
    """
    records = [record for record in dataset_dicts(manifest) if image_ids is None or record["image_id"] in image_ids]
    ids = category_ids(manifest)
    results: list[dict[str, Any]] = []
    inference_ms: list[float] = []
    for record, prediction, spent_ms in predictions(predictor, records):
        results += coco_results(prediction, record["image_id"], ids)
        inference_ms.append(spent_ms)
        on_photo()
    truth = ground_truth(manifest, {record["image_id"] for record in records})
    box, mask = (_score(matched(truth, results, kind)) for kind in KINDS)
    return Evaluation(
        split=split,
        image_count=len(records),
        instance_count=sum(not annotation.get("iscrowd") for annotation in truth.dataset["annotations"]),
        data_hash=manifest.data_hash,
        box=box,
        mask=mask,
        inference_ms_mean=float(np.mean(inference_ms)) if inference_ms else 0.0,
    )


def predictions(predictor: Predictor, records: Sequence[Record]) -> Iterator[tuple[Record, Prediction, float]]:
    """(record, prediction, ms in the network), one photo at a time as a request comes."""
    for record in records:
        photo, size = read_as_served(record, predictor.network_size)
        (prediction,), times = predictor([photo], [size])
        yield record, prediction, times.inference_ms


def category_ids(manifest: Manifest) -> list[int]:
    """The manifest's id of each class, in the order of its class names."""
    return [int(category["id"]) for category in read_coco(manifest.path)["categories"]]


def coco_results(prediction: Prediction, image_id: Any, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Instances as pycocotools wants them: boxes XYWH, masks as RLE of the whole photo."""
    results = []
    pasted = paste_masks(prediction.mask_probs, prediction.boxes_xyxy, prediction.size)
    for box, score, class_id, (rle, _) in zip(
        prediction.boxes_xyxy, prediction.scores, prediction.class_ids, pasted, strict=True
    ):
        left, top, right, bottom = (float(value) for value in box)
        results.append(
            {
                "image_id": image_id,
                "category_id": category_ids[int(class_id)],
                "bbox": [left, top, right - left, bottom - top],
                "segmentation": {"size": list(rle.size), "counts": rle.counts},
                "score": float(score),
            }
        )
    return results


def ground_truth(manifest: Manifest, image_ids: Collection[Any]) -> COCO:
    """pycocotools' index of the labels of these photos, of those with a mask that a training has, too.

    Annotations are numbered anew, from 1: pycocotools takes a match with annotation 0 for none.
    """
    source = read_coco(manifest.path)
    images = [image for image in source["images"] if image["id"] in image_ids]
    sizes = {image["id"]: (int(image["height"]), int(image["width"])) for image in images}
    wanted = (a for a in source["annotations"] if a["image_id"] in sizes)
    masked = ({**a, "segmentation": usable_mask(a, sizes[a["image_id"]])} for a in wanted)
    labels = [a for a in masked if a["segmentation"]]
    truth = COCO()
    truth.dataset = {
        "images": images,
        "categories": source["categories"],
        "annotations": [
            {**label, "id": number, "iscrowd": int(label.get("iscrowd", 0))} for number, label in enumerate(labels, 1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    for label in truth.dataset["annotations"]:
        if "area" not in label:
            label["area"] = float(coco_mask.area(truth.annToRLE(label)))
    return truth


def matched(truth: COCO, results: Sequence[Mapping[str, Any]], kind: str) -> COCOeval:
    """pycocotools' matches of answers and labels, `evalImgs`, not yet accumulated into AP.

    Args:
        truth: see `ground_truth`.
        results: see `coco_results`; of photos in `truth` only.
        kind: one of KINDS.
    """
    # pycocotools takes an answer's size from its box if there is one; a mask's size is its own area
    unwanted = {"bbox": "segmentation", "segm": "bbox"}[kind]
    answers = [{key: value for key, value in result.items() if key != unwanted} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(truth, truth.loadRes(answers) if answers else _nothing(truth), kind)
        run.evaluate()
    return run


def _score(run: COCOeval) -> Scores:
    with contextlib.redirect_stdout(io.StringIO()):
        run.accumulate()
        run.summarize()
    # precision: (IoU thresholds, recall thresholds, classes by id, area ranges, maximum counts)
    precision = run.eval["precision"][:, :, :, 0, -1]
    by_class = {c["name"]: precision[:, :, run.params.catIds.index(c["id"])] for c in run.cocoGt.dataset["categories"]}
    return Scores(
        ap=_per_cent(run.stats[AP]),
        ap50=_per_cent(run.stats[AP50]),
        ap75=_per_cent(run.stats[AP75]),
        per_class={name: _mean(values) for name, values in by_class.items()},
        per_class_ap50={name: _mean(values[0]) for name, values in by_class.items()},
        per_size={size: _per_cent(run.stats[FIRST_SIZE + index]) for index, size in enumerate(SIZES)},
    )


def _nothing(truth: COCO) -> COCO:
    """pycocotools refuses an empty list of results."""
    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _mean(precision: np.ndarray) -> Ap:
    known = precision[precision > -1]
    return round(float(known.mean()) * 100, 2) if known.size else None


def _per_cent(value: float) -> Ap:
    return None if value < 0 else round(float(value) * 100, 2)
