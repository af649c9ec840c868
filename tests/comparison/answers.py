"""Labelled photos without pixels, and the answers of imagined models to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from maskserve.training.datasets.manifest import Manifest, load_manifest

SIZE = (240, 320)
CATEGORIES = ((7, "giant panda"), (2, "red panda"), (5, "koala"))
"""Ids out of order and with gaps, as other people's files have them."""
Box = tuple[float, float, float, float]


def label(number: int, image_id: Any, category_id: int, box: Box, crowd: bool = False) -> dict[str, Any]:
    """A labelled solid box, XYWH px."""
    fields = {"id": number, "image_id": image_id, "category_id": category_id, "bbox": list(box)}
    mask = _rle(box) if crowd else [_corners(box)]
    return {**fields, "segmentation": mask, "iscrowd": int(crowd), "area": box[2] * box[3]}


def answer(image_id: Any, category_id: int, box: Box, score: float) -> dict[str, Any]:
    """A solid box as pycocotools has results."""
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(box),
        "segmentation": _rle(box),
        "score": score,
    }


def write_manifest(
    path: Path, labels: list[dict[str, Any]], image_ids: list[Any], categories: Any = CATEGORIES
) -> Manifest:
    """A COCO file of photos of SIZE."""
    height, width = SIZE
    images = [{"id": id_, "file_name": f"{id_}.jpg", "height": height, "width": width} for id_ in image_ids]
    names = [{"id": id_, "name": name} for id_, name in categories]
    path.write_text(json.dumps({"images": images, "annotations": labels, "categories": names}))
    return load_manifest(path)


def random_labels(rng: np.random.Generator, image_ids: list[Any]) -> list[dict[str, Any]]:
    """None to five instances a photo, small, medium and large, koalas rarely and some crowds."""
    labels: list[dict[str, Any]] = []
    for image_id in image_ids:
        for _ in range(int(rng.integers(0, 6))):
            category = int(rng.choice([7, 2, 5], p=[0.5, 0.42, 0.08]))
            labels.append(label(len(labels), image_id, category, _box(rng), crowd=bool(rng.random() < 0.08)))
    return labels


def random_answers(
    rng: np.random.Generator, labels: list[dict[str, Any]], image_ids: list[Any], *, noise: float, spurious: int
) -> list[dict[str, Any]]:
    """Labels found with shifted edges and now and then as another class or twice, and answers on nothing."""
    answers = []
    for found in labels:
        for _ in range(int(rng.choice([0, 1, 2], p=[0.15, 0.7, 0.15]))):
            left, top, width, height = found["bbox"]
            shift = rng.normal(0, noise, 4) * [width, height, width, height]
            box = (left + shift[0], top + shift[1], max(2.0, width + shift[2]), max(2.0, height + shift[3]))
            category = found["category_id"] if rng.random() < 0.85 else int(rng.choice([7, 2, 5]))
            answers.append(answer(found["image_id"], category, box, float(rng.beta(4, 2))))
    for image_id in image_ids:
        for _ in range(int(rng.integers(0, spurious + 1))):
            answers.append(answer(image_id, int(rng.choice([7, 2, 5])), _box(rng), float(rng.beta(2, 4))))
    return answers


def _box(rng: np.random.Generator) -> Box:
    side = rng.choice([16, 60, 130])
    width, height = rng.uniform(0.7, 1.3, 2) * side
    left, top = rng.uniform(0, SIZE[1] - width), rng.uniform(0, SIZE[0] - height)
    return float(left), float(top), float(width), float(height)


def _corners(box: Box) -> list[float]:
    left, top, width, height = box
    return [left, top, left + width, top, left + width, top + height, left, top + height]


def _rle(box: Box) -> dict[str, Any]:
    (encoded,) = coco_mask.frPyObjects([_corners(box)], *SIZE)
    return {"size": list(SIZE), "counts": encoded["counts"].decode("ascii")}
