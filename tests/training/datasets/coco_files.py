"""Writes COCO instance files with small photos for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.training.datasets.labelme_files import photo_bytes

SQUARE = [10, 20, 40, 20, 40, 50, 10, 50]
HOLED = {"size": [60, 80], "counts": [60 * 10 + 5, 20, 40, 5, 10, 5, 40, 20, 4055]}
"""A frame of 3 columns in a photo of 60 × 80, with a hole 10 px high in its middle column."""


def annotation(number: int, segmentation: Any, *, image: int = 1, category: int = 1, **fields: Any) -> dict[str, Any]:
    entry = {"id": number, "image_id": image, "category_id": category, "bbox": [0, 0, 1, 1], "iscrowd": 0}
    return {**entry, "segmentation": segmentation, **fields}


def write_coco(
    path: Path,
    annotations: Sequence[dict[str, Any]],
    *,
    photos: Sequence[str] = ("a.jpg",),
    categories: Sequence[tuple[int, str]] = ((1, "cat"),),
    size: tuple[int, int] = (60, 80),
) -> Path:
    """The file and its photos beside it; image ids are 1, 2, …"""
    path.parent.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(photos):
        (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / name).write_bytes(photo_bytes(size, seed=seed))
    images = [{"id": i, "file_name": name, "height": size[0], "width": size[1]} for i, name in enumerate(photos, 1)]
    named = [{"id": number, "name": name} for number, name in categories]
    path.write_text(json.dumps({"images": images, "annotations": list(annotations), "categories": named}))
    return path
