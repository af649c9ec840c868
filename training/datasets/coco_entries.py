"""What the entries of a COCO instance file must hold for code to rely on it: ids, sizes, boxes, outlines, RLE.

Nothing is said here about whether a label makes sense, say a polygon of two points: that is `maskserve data check`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskserve.imaging.rle import check_rle
from maskserve.protos.errors import DataError
from maskserve.protos.types import MaskRle
from maskserve.training.datasets.example import names_a_file
from maskserve.training.datasets.findings import Where
from maskserve.training.datasets.labels import is_name

Entry = Mapping[str, Any]
FURTHEST_PX = 100_000
"""From a photo's corner: pycocotools takes memory for each pixel that an outline passes, inside or not."""
_FIELDS = {
    "images": {"id", "file_name", "height", "width"},
    "categories": {"id", "name"},
    "annotations": {"id", "image_id", "category_id", "bbox"},
}


def check_entries(path: Path, coco: Mapping[str, list[Entry]]) -> None:
    """Raises DataError for the first entry that lacks something, naming it and what to do."""
    for key, fields in _FIELDS.items():
        for index, entry in enumerate(coco[key]):
            missing = fields - set(entry) if isinstance(entry, dict) else fields
            if missing:
                raise DataError(f"{path}: {key}[{index}] has no {', '.join(sorted(missing))}; complete the file.")
            wrong = _wrong(key, entry)
            if wrong:
                raise DataError(f"{path}: {key}[{index}]: {wrong}; correct the file.")
    image_ids, category_ids = ({entry["id"] for entry in coco[key]} for key in ("images", "categories"))
    for key, known in (("images", image_ids), ("categories", category_ids)):
        if len(known) < len(coco[key]):
            raise DataError(f"{path}: two {key} have the same id; give each its own.")
    if len({isinstance(image_id, str) for image_id in image_ids}) > 1:
        raise DataError(f"{path}: some images have a number as id and some a text; give all of them numbers.")
    for index, annotation in enumerate(coco["annotations"]):
        for key, known in (("image", image_ids), ("category", category_ids)):
            if annotation[f"{key}_id"] not in known:
                named = annotation[f"{key}_id"]
                raise DataError(f"{path}: annotations[{index}] names {key} {named}, which is not there.")
        _check_annotation(annotation, Where(str(path), int(annotation["id"]), "annotation"))


def _wrong(key: str, entry: Entry) -> str | None:
    """What is no value of its kind in an entry that has all fields."""
    if key == "images":
        sides = entry["height"], entry["width"]
        if not _is_id(entry["id"]):
            return "its id is neither a number nor a text"
        if not entry["file_name"] or not names_a_file(entry["file_name"]):
            return "its file_name is none"
        return None if all(_is_whole(side) and int(side) > 0 for side in sides) else f"it has no size: {sides} px"
    if key == "categories" and not is_name(str(entry["name"] or "")):
        return f"its name {entry['name']!r} is none"
    if key == "annotations" and not _is_id(entry["image_id"]):
        return "its image_id is neither a number nor a text"
    numbers = ["id"] if key == "categories" else ["id", "category_id"]
    bad = next((field for field in numbers if not _is_whole(entry[field])), None)
    return bad and f"its {bad} {entry[bad]!r} is no whole number"


def _check_annotation(annotation: Entry, where: Where) -> None:
    segmentation, box = annotation.get("segmentation"), annotation["bbox"]
    if not _are_numbers(box) or len(box) != 4:
        raise DataError(f"{where}: its bbox {box} is not [x, y, width, height]; correct it.")
    if not _is_whole(annotation.get("iscrowd", 0)) or not _are_numbers([annotation.get("area", 0)]):
        raise DataError(f"{where}: its iscrowd or area is no number; correct it or leave it out.")
    if isinstance(segmentation, dict):
        _check_rle(segmentation, where)
    elif segmentation and not (isinstance(segmentation, list) and all(map(_is_outline, segmentation))):
        raise DataError(
            f"{where}: its segmentation is no list of polygons [[x0, y0, x1, y1, …], …] and no RLE; correct it."
        )
    elif segmentation and any(max(map(abs, outline), default=0) > FURTHEST_PX for outline in segmentation):
        raise DataError(f"{where}: its segmentation reaches further than {FURTHEST_PX} px; correct it or remove it.")


def _check_rle(rle: Entry, where: Where) -> None:
    counts, size = rle.get("counts"), rle.get("size")
    try:
        if not isinstance(size, list) or set(map(type, size)) != {int}:
            raise TypeError
        height, width = size
        if min(size) < 0:
            raise ValueError
        if not isinstance(counts, list):
            check_rle(MaskRle((height, width), str(counts)))
        elif not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != height * width:
            raise ValueError
    except (TypeError, ValueError):
        said = f"{where}: its RLE has no counts that fill its size {size}; make it again or remove it."
        raise DataError(said) from None


def _is_outline(points: Any) -> bool:
    return _are_numbers(points) and len(points) % 2 == 0


def _are_numbers(values: Any) -> bool:
    """Finite ones. COCO has a hundred million: each is looked at by functions written in C only."""
    try:
        return isinstance(values, list) and set(map(type, values)) <= {int, float} and all(map(math.isfinite, values))
    except OverflowError:  # a whole number of more digits than a float has
        return False


def _is_id(value: Any) -> bool:
    """Of a photo: other programs take names for it, too."""
    return isinstance(value, int | float | str)


def _is_whole(value: Any) -> bool:
    """Whether it is a whole number, perhaps written 3.0 or "3"."""
    try:
        return int(value) == float(value)
    except (TypeError, ValueError, OverflowError):
        return False
