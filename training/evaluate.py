"""COCO box and mask AP of the very predictor that is served.

    photos ─▶ Predictor ─▶ every instance above the model's lowest threshold ─▶ masks as RLE ─▶ pycocotools ─▶ AP

AP is the mean over IoU 0.50:0.05:0.95, AP50 and AP75 at one IoU, all in per cent; None where a split has no instance.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskserve.imaging.masks import paste_rle
from maskserve.modeling.predictor import Prediction, Predictor
from maskserve.training.datasets.manifest import Manifest, dataset_dicts
from maskserve.training.loader import Record, read_photo

KINDS = ("bbox", "segm")
AP, AP50, AP75 = 0, 1, 2
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
    category_ids = [int(category["id"]) for category in _coco_json(manifest)["categories"]]
    results: list[dict[str, Any]] = []
    inference_ms: list[float] = []
    for record, prediction, spent_ms in predictions(predictor, records):
        results += _results(prediction, record["image_id"], category_ids)
        inference_ms.append(spent_ms)
        on_photo()
    truth = _ground_truth(manifest, {record["image_id"] for record in records})
    box, mask = (_score(truth, results, kind, manifest.class_names) for kind in KINDS)
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
        (prediction,), times = predictor([read_photo(record)])
        yield record, prediction, times.inference_ms


def _results(prediction: Prediction, image_id: Any, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Instances as pycocotools wants them: boxes XYWH, masks as RLE of the whole photo."""
    results = []
    for box, score, class_id, probs in zip(
        prediction.boxes_xyxy, prediction.scores, prediction.class_ids, prediction.mask_probs, strict=True
    ):
        left, top, right, bottom = (float(value) for value in box)
        rle, _ = paste_rle(probs, box, prediction.size)
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


def _ground_truth(manifest: Manifest, image_ids: Collection[Any]) -> COCO:
    """pycocotools' index of the labels of these photos."""
    source = _coco_json(manifest)
    truth = COCO()
    truth.dataset = {
        "images": [image for image in source["images"] if image["id"] in image_ids],
        "categories": source["categories"],
        "annotations": [
            {**annotation, "iscrowd": int(annotation.get("iscrowd", 0))}
            for annotation in source["annotations"]
            if annotation["image_id"] in image_ids and annotation.get("segmentation")
        ],
    }
    for annotation in truth.dataset["annotations"]:
        annotation.setdefault("area", float(annotation["bbox"][2] * annotation["bbox"][3]))
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def _score(truth: COCO, results: list[dict[str, Any]], kind: str, class_names: Sequence[str]) -> Scores:
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes(copy.deepcopy(results)) if results else _nothing(truth)
        run = COCOeval(truth, found, kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    # precision: (IoU thresholds, recall thresholds, classes, area ranges, maximum counts)
    precision = run.eval["precision"][:, :, :, 0, -1]
    by_class = [precision[:, :, index] for index in range(len(class_names))]
    return Scores(
        ap=_per_cent(run.stats[AP]),
        ap50=_per_cent(run.stats[AP50]),
        ap75=_per_cent(run.stats[AP75]),
        per_class={name: _mean(values) for name, values in zip(class_names, by_class, strict=True)},
        per_class_ap50={name: _mean(values[0]) for name, values in zip(class_names, by_class, strict=True)},
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


def _coco_json(manifest: Manifest) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(manifest.path.read_bytes())
    return loaded
