"""COCO instance file ▶ one Example an image: polygons cut to the photo, RLE masks and crowds as they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from maskserve.protos.errors import DataError
from maskserve.training.datasets.check_coco import annotation_findings, size_findings
from maskserve.training.datasets.coco import image_root, read_coco
from maskserve.training.datasets.example import Example, Instance, LabelFile, read_photo, require_photos
from maskserve.training.datasets.findings import Finding, Where
from maskserve.training.datasets.geometry import clip_all
from maskserve.training.datasets.labels import SKIPPED_LABELS
from maskserve.training.datasets.photos import digests
from maskserve.training.datasets.sources import Source

Annotation = Mapping[str, Any]


def open_coco(source: Source) -> LabelFile:
    """The images of a COCO instance file, and its categories in the file's order, used or not.

    Raises:
        DataError: when it is no COCO instance file, or photos are missing.
    """
    coco = read_coco(source.path)
    root = image_root(coco, source.path)
    photos = [root / image["file_name"] for image in coco["images"]]
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
        found = list(annotation_findings(image, [annotation], names, source.path))
        instance = _instance(annotation, names[annotation["category_id"]], size)
        if instance.polygons or (instance.rle and not found):
            instances.append(instance)
        doubtful += found
    return Example(source.path, "annotation", photo, size, *digests(data), tuple(instances), source.split), doubtful


def _instance(annotation: Annotation, label: str, size: tuple[int, int]) -> Instance:
    segmentation, crowd = annotation.get("segmentation") or [], bool(annotation.get("iscrowd"))
    if isinstance(segmentation, dict):
        return Instance(label, (), (annotation["id"],), segmentation, crowd)
    outlines = [[(float(x), float(y)) for x, y in zip(p[::2], p[1::2], strict=True)] for p in segmentation]
    return Instance(label, clip_all(outlines, size), (annotation["id"],), None, crowd)
