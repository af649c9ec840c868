"""COCO instance file ▶ one Example an image: polygons cut to the photo, RLE masks and crowds as they are."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from maskserve.imaging.rle import decode_rle
from maskserve.protos.errors import DataError
from maskserve.protos.types import MaskRle
from maskserve.training.datasets.check_coco import annotation_findings, size_findings
from maskserve.training.datasets.coco import image_root, read_coco
from maskserve.training.datasets.example import Example, Instance, LabelFile, read_photo, require_photos
from maskserve.training.datasets.findings import Finding, Where
from maskserve.training.datasets.geometry import clip_all
from maskserve.training.datasets.labels import SKIPPED_LABELS
from maskserve.training.datasets.photos import content_hash
from maskserve.training.datasets.sources import Source

Annotation = Mapping[str, Any]


def open_coco(source: Source) -> LabelFile:
    """The images of a COCO instance file, and its categories in the file's order, used or not.

    Raises:
        DataError: when it is no COCO instance file, or photos are missing.
    """
    coco = read_coco(source.path)
    root = image_root(coco, source.path)
    photos = [root / str(image["file_name"]).replace("\\", "/") for image in coco["images"]]
    require_photos(photos, source.path)
    names = {category["id"]: str(category["name"]).strip() for category in coco["categories"]}
    by_image: defaultdict[Any, list[Annotation]] = defaultdict(list)
    for annotation in coco["annotations"]:
        if names[annotation["category_id"]] not in SKIPPED_LABELS:
            by_image[annotation["image_id"]].append(annotation)
    jobs = [
        partial(_example, source, image, photo, by_image[image["id"]], names)
        for image, photo in zip(coco["images"], photos, strict=True)
    ]
    return LabelFile(jobs, tuple(dict.fromkeys(name for name in names.values() if name not in SKIPPED_LABELS)))


def _example(
    source: Source, image: Mapping[str, Any], photo: Path, annotations: Sequence[Annotation], names: Mapping[Any, str]
) -> tuple[Example, list[Finding]]:
    data, size = read_photo(photo, source.path)
    for unusable in size_findings(image, size, Where(str(photo))):
        raise DataError(f"{unusable.where}: {unusable.message}.")
    instances, doubtful = [], []
    for annotation in annotations:
        _check_segmentation(annotation.get("segmentation"), Where(str(source.path), annotation["id"], "annotation"))
        found = list(annotation_findings(image, [annotation], names, source.path))
        instance = _instance(annotation, names[annotation["category_id"]], size)
        if instance.polygons or (instance.rle and not found):
            instances.append(instance)
        doubtful += found
    example = Example(source.path, "annotation", photo, size, content_hash(data), tuple(instances), source.split)
    return example, doubtful


def _instance(annotation: Annotation, label: str, size: tuple[int, int]) -> Instance:
    segmentation, crowd = annotation.get("segmentation") or [], bool(annotation.get("iscrowd"))
    if isinstance(segmentation, dict):
        return Instance(label, (), (annotation["id"],), segmentation, crowd)
    outlines = [[(float(x), float(y)) for x, y in zip(p[::2], p[1::2], strict=True)] for p in segmentation]
    return Instance(label, clip_all(outlines, size), (annotation["id"],), None, crowd)


def _check_segmentation(segmentation: Any, where: Where) -> None:
    """Raises DataError for what is neither polygons nor an RLE; no segmentation at all is for `data check` to tell."""
    if not segmentation:
        return
    if isinstance(segmentation, dict):
        _check_rle(segmentation, where)
    elif not isinstance(segmentation, list) or not all(map(_is_polygon, segmentation)):
        raise DataError(
            f"{where}: its segmentation is no list of polygons [[x0, y0, x1, y1, …], …] and no RLE; correct it."
        )


def _is_polygon(points: Any) -> bool:
    return (
        isinstance(points, list)
        and len(points) % 2 == 0
        and all(isinstance(v, int | float) and math.isfinite(v) for v in points)
    )


def _check_rle(rle: Mapping[str, Any], where: Where) -> None:
    counts, size = rle.get("counts"), rle.get("size")
    try:
        height, width = map(int, size or ())
        if isinstance(counts, list):
            fills = all(isinstance(run, int) and run >= 0 for run in counts) and sum(counts) == height * width
        else:
            fills = decode_rle(MaskRle((height, width), str(counts))).size > 0
    except (TypeError, ValueError, OverflowError):  # the last: JSON's Infinity
        fills = False
    if not fills:
        raise DataError(f"{where}: its RLE has no counts that fill its size {size}; make it again or remove it.")
