"""Labelled photos of any source, one form: what `data show` draws.

labelme folder | dataset folder | COCO file ▶ Sample ▶ Segmentation (scaled with its photo)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from maskserve.imaging.masks import coverage
from maskserve.imaging.rle import decode_rle, encode_rle
from maskserve.protos.types import Instance, MaskRle, ModelInfo, Segmentation
from maskserve.training.datasets import labelme
from maskserve.training.datasets.coco import manifest_files, read_coco
from maskserve.training.datasets.geometry import clip
from maskserve.training.datasets.manifest import Manifest, load_manifest
from maskserve.training.datasets.photos import photo_size
from maskserve.training.datasets.sources import Source, find_labelme


@dataclass(frozen=True)
class Sample:
    """One labelled photo; a mask is a list of flat polygons (x0, y0, x1, …) px or a COCO RLE."""

    name: str
    read: Callable[[], bytes]
    masks: tuple[tuple[str, Any], ...]
    """Class name, mask."""


def find_samples(path: Path) -> list[Sample]:
    """All labelled photos of a labelme folder, a dataset folder or a COCO file, in file order.

    Raises:
        DataError: when there are none, or a file is broken.
    """
    files = manifest_files(path)
    if not files:
        return [_labelme_sample(source) for source in find_labelme([path])]
    return [sample for file in files.values() for sample in _manifest_samples(file)]


def _labelme_sample(source: Source) -> Sample:
    photo = labelme.read_labelme(source.path)
    size = photo.stated_size or photo_size(photo.image_bytes())
    masks = []
    for instance in labelme.instances(photo.shapes):
        pieces = [piece for outline in instance.polygons for piece in clip(outline, size)]
        if pieces:
            masks.append((instance.label, [[v for point in piece for v in point] for piece in pieces]))
    return Sample(photo.image_path.name, partial(_read_labelme_photo, source.path), tuple(masks))


def _read_labelme_photo(path: Path) -> bytes:
    return labelme.read_labelme(path).image_bytes()


def _manifest_samples(path: Path) -> list[Sample]:
    manifest = load_manifest(path)
    masks = masks_by_image(manifest)
    return [
        Sample(image["file_name"], (manifest.image_root / image["file_name"]).read_bytes, tuple(masks[image["id"]]))
        for image in read_coco(manifest.path)["images"]
    ]


def masks_by_image(manifest: Manifest) -> defaultdict[Any, list[tuple[str, Any]]]:
    """Image id ─▶ (class name, mask) of what is labelled on it, crowds left out; masks as in `Sample`."""
    coco = read_coco(manifest.path)
    names = {category["id"]: str(category["name"]) for category in coco["categories"]}
    masks: defaultdict[Any, list[tuple[str, Any]]] = defaultdict(list)
    for annotation in coco["annotations"]:
        if annotation.get("segmentation") and not annotation.get("iscrowd"):
            masks[annotation["image_id"]].append((names[annotation["category_id"]], annotation["segmentation"]))
    return masks


def to_segmentation(
    masks: Sequence[tuple[str, Any]], size: tuple[int, int], shown: tuple[int, int], class_ids: Mapping[str, int]
) -> Segmentation:
    """Labels of a photo of `size` as an answer for the same photo scaled to `shown`, both (height, width)."""
    drawn = ((name, _pixels(mask, size, shown)) for name, mask in masks)
    instances = [_instance(class_ids[name], name, pixels) for name, pixels in drawn if pixels.any()]
    instances.sort(key=lambda instance: instance.area_px)
    cover = coverage(instances, shown, tuple(class_ids))
    return Segmentation(shown, tuple(instances), cover, ModelInfo("labels", "", ""))


def _instance(class_id: int, name: str, pixels: NDArray[np.bool_]) -> Instance:
    x, y, width, height = cv2.boundingRect(pixels.astype(np.uint8))
    box = float(x), float(y), float(x + width), float(y + height)
    return Instance(class_id, name, 1.0, box, int(pixels.sum()), encode_rle(pixels))


def _pixels(mask: Any, size: tuple[int, int], shown: tuple[int, int]) -> NDArray[np.bool_]:
    if isinstance(mask, list):
        scale = np.array([shown[1] / size[1], shown[0] / size[0]])
        flat = [(np.reshape(polygon, (-1, 2)) * scale).ravel().tolist() for polygon in mask if len(polygon) >= 6]
        return _decoded(coco_mask.merge(coco_mask.frPyObjects(flat, *shown))) if flat else np.zeros(shown, np.bool_)
    pixels = _decoded(coco_mask.frPyObjects(mask, *size) if isinstance(mask["counts"], list) else mask)
    return np.asarray(cv2.resize(pixels.astype(np.uint8), shown[::-1], interpolation=cv2.INTER_NEAREST)) > 0


def _decoded(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    counts = rle["counts"].decode("ascii") if isinstance(rle["counts"], bytes) else str(rle["counts"])
    height, width = rle["size"]
    return decode_rle(MaskRle((height, width), counts))
