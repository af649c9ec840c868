"""Reads VGG Image Annotator 2 files: JSON ▶ photos ▶ regions ▶ outlines, and the attribute that names the class.

Both its annotation export (`via_region_data.json`) and its project file (`_via_img_metadata`) are taken; regions may
be a list or, as in VIA 1, an object. Polygons, rectangles, circles and ellipses have an area; points, lines and
polylines do not. Coordinates are px of the photo as a browser shows it, so after EXIF orientation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from maskserve.protos.errors import DataError
from maskserve.training.datasets.coco import read_json
from maskserve.training.datasets.geometry import Polygon, ellipse
from maskserve.training.datasets.labels import is_name

PROJECT_KEY = "_via_img_metadata"
AREA_SHAPES = frozenset({"polygon", "rect", "circle", "ellipse"})
MOST_VALUES = 6
"""As many values of an attribute are listed in a message."""


@dataclass(frozen=True)
class Region:
    """One region; `outline` is empty for shapes without area, `values` are what was chosen of each attribute."""

    index: int
    kind: str
    outline: Polygon
    values: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class ViaPhoto:
    """One photo; `size_bytes` is that of the file that was labelled, -1 where VIA did not know it."""

    path: Path
    size_bytes: int
    regions: tuple[Region, ...]


def is_via(content: object) -> bool:
    if not isinstance(content, dict) or not content:
        return False
    entries = content.get(PROJECT_KEY, content)
    return isinstance(entries, dict) and all(
        isinstance(entry, dict) and "filename" in entry and "regions" in entry for entry in entries.values()
    )


def read_via(path: Path) -> list[ViaPhoto]:
    """The photos of a VIA file, in its order.

    Raises:
        DataError: when it is no VIA file, names no photo, or a region is damaged.
    """
    content = read_json(path)
    if not is_via(content):
        raise DataError(f"{path} is not a VIA file: its entries have no filename and regions. Export it again in VIA.")
    entries = content.get(PROJECT_KEY, content)
    if not entries:
        raise DataError(f"{path} names no photo; add photos in VIA and export it again.")
    settings = content.get("_via_settings")
    core = settings.get("core") if isinstance(settings, dict) else None
    folder = str(core.get("default_filepath") or "") if isinstance(core, dict) else ""
    return [_photo(path, entry, folder) for entry in entries.values()]


def _photo(path: Path, entry: Mapping[str, Any], folder: str) -> ViaPhoto:
    name = str(entry["filename"]).replace("\\", "/")
    if "://" in name:
        raise DataError(f"{path}: {name} is a web address; download the photo and name its file in VIA instead.")
    places = [path.parent / name, path.parent / folder.replace("\\", "/") / name, path.parent / "images" / name]
    regions = entry["regions"]
    listed = list(regions.values()) if isinstance(regions, dict) else regions
    if not isinstance(listed, list):
        raise DataError(f"{path}: the regions of {name} are no list; export it again in VIA.")
    found = next((place for place in places if place.is_file()), places[0])
    size_bytes = entry.get("size")
    return ViaPhoto(
        found,
        size_bytes if isinstance(size_bytes, int) else -1,
        tuple(_region(f"{path}: region {index} of {name}", index, region) for index, region in enumerate(listed)),
    )


def _region(where: str, index: int, region: Any) -> Region:
    try:
        shape, attributes = region["shape_attributes"], region.get("region_attributes") or {}
        kind, outline = str(shape["name"]), _outline(shape)
        values = {str(name).strip(): _chosen(value) for name, value in attributes.items()}
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        raise DataError(f"{where} is damaged: it has no readable shape; draw it again in VIA.") from None
    if not all(math.isfinite(v) for point in outline for v in point):
        raise DataError(f"{where} has a coordinate that is not a number; draw it again in VIA.")
    if not all(map(is_name, chain.from_iterable(values.values()))):
        raise DataError(f"{where} has an attribute that is no text; correct it in VIA.")
    return Region(index, kind, outline, values)


def _outline(shape: Mapping[str, Any]) -> Polygon:
    kind = shape["name"]
    if kind == "polygon":
        xs, ys = shape["all_points_x"], shape["all_points_y"]
        return [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]
    if kind == "rect":
        x, y, width, height = (float(shape[key]) for key in ("x", "y", "width", "height"))
        return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    if kind == "circle":
        return ellipse((float(shape["cx"]), float(shape["cy"])), (float(shape["r"]), float(shape["r"])))
    if kind == "ellipse":
        radii = float(shape["rx"]), float(shape["ry"])
        return ellipse((float(shape["cx"]), float(shape["cy"])), radii, float(shape.get("theta") or 0))
    return []


def _chosen(value: Any) -> tuple[str, ...]:
    """What was typed, or chosen in a list or with check boxes: {"cat": true, "dog": false} is ("cat",)."""
    options = [name for name, ticked in value.items() if ticked] if isinstance(value, dict) else [value]
    return tuple(text for option in options if option is not None and (text := str(option).strip()))


def class_attribute(path: Path, photos: Sequence[ViaPhoto], wanted: str | None) -> str | None:
    """The attribute whose values are the classes: the wanted one, or the only one; None when there is none at all.

    Raises:
        DataError: when the wanted one is not there, or there are several; lists them with their values.
    """
    found: dict[str, dict[str, None]] = {}
    for name, value in _values(photos):
        found.setdefault(name, {})[value] = None
    if wanted is None and len(found) <= 1:
        return next(iter(found), None)
    if wanted in found:
        return wanted
    listed = "; ".join(f"{name} ({_listed(list(values))})" for name, values in found.items()) or "none"
    problem = f"has no region attribute {wanted!r}" if wanted else "has several region attributes"
    raise DataError(f"{path} {problem}; name the one that is the class with --via-attribute. There are: {listed}.")


def _values(photos: Sequence[ViaPhoto]) -> Iterator[tuple[str, str]]:
    for photo in photos:
        for region in photo.regions:
            for name, values in region.values.items():
                yield from ((name, value) for value in values)


def _listed(values: list[str]) -> str:
    return ", ".join(values[:MOST_VALUES]) + (", …" if len(values) > MOST_VALUES else "")
