"""One photo of a COCO manifest ▶ findings: its file first, then each of its annotations ▶ its objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from maskserve.training.datasets.findings import Finding, Where, polygon_findings
from maskserve.training.datasets.geometry import bounding_box, compressed, has_area, outline_area, pairs
from maskserve.training.datasets.survey import Thing

BOX_TOLERANCE_PX = 2.0


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
                yield from polygon_findings(pairs(polygon), size, where, label)


def _rle_findings(rle: Mapping[str, Any], size: tuple[int, int], where: Where, label: str) -> Iterator[Finding]:
    if list(rle.get("size", ())) != list(size):
        text = f"the mask of {label!r} is of size {rle.get('size')}, its photo of {list(size)} (height, width)"
        yield Finding("error", "size-mismatch", where, text)
        return
    if coco_mask.area(compressed(rle, size)) == 0:
        yield Finding("error", "empty-polygon", where, f"the mask of {label!r} is empty; delete it")


def box_findings(
    image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], names: Mapping[int, str], file: Path
) -> Iterator[Finding]:
    """Stated boxes that are others than those of the polygons; for a training, as an import makes boxes anew."""
    size = int(image["height"]), int(image["width"])
    for annotation in annotations:
        box = wrong_box(annotation, size)
        if box is not None:
            stated, reached = ([round(v) for v in values] for values in (annotation["bbox"], box))
            label, where = names[annotation["category_id"]], Where(str(file), int(annotation["id"]), "annotation")
            text = f"the box of {label!r} is {stated}, its polygons reach over {reached} (x, y, width, height)"
            yield Finding("warning", "box-mismatch", where, f"{text}; make them agree")


def wrong_box(annotation: Mapping[str, Any], size: tuple[int, int]) -> Sequence[float] | None:
    """The XYWH px box of an annotation's polygons, where the stated one is another (both as far as in the photo).

    One head learns from the box, the other from the polygons.
    """
    segmentation = annotation.get("segmentation")
    polygons = segmentation if isinstance(segmentation, list) else []
    outlines = [outline for outline in map(pairs, polygons) if has_area(outline)]
    if not outlines:
        return None
    box = bounding_box(outlines)
    beyond_px = np.abs(_corners(box, size) - _corners(annotation["bbox"], size)).max()
    return box if beyond_px > BOX_TOLERANCE_PX else None


def _corners(box: Sequence[float], size: tuple[int, int]) -> NDArray[np.float64]:
    """The corners (4,) x0, y0, x1, y1 px of an XYWH box, moved into the photo."""
    x, y, width, height = box
    return np.clip([x, y, x + width, y + height], 0, np.tile(size[::-1], 2))


def id_findings(annotations: Sequence[Mapping[str, Any]], file: Path) -> Iterator[Finding]:
    """Ids that pycocotools cannot tell from "not matched" (0) or from each other."""
    counts = Counter(annotation["id"] for annotation in annotations)
    repeated = [number for number, count in counts.items() if count > 1]
    if 0 in counts or repeated:
        zero = "an annotation has the id 0" if 0 in counts else ""
        twice = f"{len(repeated)} ids occur more than once, the first is {repeated[0]}" if repeated else ""
        text = f"{' and '.join(filter(None, (zero, twice)))}; number the annotations 1, 2, 3, …"
        yield Finding("warning", "annotation-id", Where(str(file)), text)


def coco_things(
    image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], names: Mapping[int, str], photo: str, split: str
) -> Iterator[Thing]:
    """The objects on one image of a manifest that have a mask."""
    size = int(image["height"]), int(image["width"])
    for annotation in annotations:
        segmentation = annotation.get("segmentation")
        if segmentation and not annotation.get("iscrowd"):
            _, _, width, height = annotation["bbox"]
            area_px = _area(segmentation, size)
            yield Thing(photo, split, names[annotation["category_id"]], (height, width), area_px, size)


def _area(segmentation: Any, size: tuple[int, int]) -> float:
    if isinstance(segmentation, dict):
        return float(coco_mask.area(compressed(segmentation, size)))
    return sum(outline_area(outline) for outline in map(pairs, segmentation) if len(outline) >= 3)
