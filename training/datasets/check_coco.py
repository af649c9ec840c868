"""One photo of a COCO manifest ▶ findings: its file first, then each of its annotations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from maskserve.training.datasets.findings import Finding, Where, polygon_findings


def size_findings(image: Mapping[str, Any], size: tuple[int, int], where: Where) -> Iterator[Finding]:
    """The photo's real (height, width) after EXIF orientation against what the manifest says."""
    stated = int(image["height"]), int(image["width"])
    if stated != size:
        turned = " (upright, as its EXIF orientation says)" if stated == size[::-1] else ""
        text = (
            f"the manifest says {stated[1]}×{stated[0]} px, the photo has {size[1]}×{size[0]} px{turned}; "
            "correct the manifest or put the photo there that was labelled"
        )
        yield Finding("error", "size-mismatch", where, text)


def annotation_findings(
    image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], names: Mapping[int, str], file: Path
) -> Iterator[Finding]:
    """What is wrong with the annotations of one image of the manifest `file`; `names` are by category id."""
    size = int(image["height"]), int(image["width"])
    if not annotations:
        text = f"the photo {image['file_name']} has no annotation"
        yield Finding("warning", "no-labels", Where(str(file)), text)
    for annotation in annotations:
        where = Where(str(file), int(annotation["id"]), "annotation")
        label, segmentation = names[annotation["category_id"]], annotation.get("segmentation")
        if not segmentation:
            text = f"{label!r} in {image['file_name']} has no mask; draw one, a box alone trains no mask"
            yield Finding("error", "empty-polygon", where, text)
        elif isinstance(segmentation, dict):
            yield from _rle_findings(segmentation, size, where, label)
        else:
            for polygon in segmentation:
                points = list(zip(polygon[::2], polygon[1::2], strict=False))
                yield from polygon_findings(points, size, where, label)


def _rle_findings(rle: Mapping[str, Any], size: tuple[int, int], where: Where, label: str) -> Iterator[Finding]:
    if list(rle.get("size", ())) != list(size):
        text = f"the mask of {label!r} is of size {rle.get('size')}, its photo of {list(size)} (height, width)"
        yield Finding("error", "size-mismatch", where, text)
        return
    compressed = coco_mask.frPyObjects(dict(rle), *size) if isinstance(rle["counts"], list) else rle
    if coco_mask.area(compressed) == 0:
        yield Finding("error", "empty-polygon", where, f"the mask of {label!r} is empty; delete it")
