"""Reads labelme JSON (versions 3 to 5): file ▶ checked fields ▶ shapes ▶ polygons ▶ instances.

    LabelledPhoto           one labelme file and the photo it belongs to
    instances               shapes of one label joined by `group_id`: polygons in px of the EXIF-oriented photo

Rectangles and circles become polygons, labelme 5's `mask` bitmaps are traced; points and lines have no area and are
left out, as are the labels `__ignore__` and `_background_`.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from maskserve.protos.errors import DataError
from maskserve.training.datasets.example import Instance, names_a_file
from maskserve.training.datasets.geometry import Polygon, ellipse
from maskserve.training.datasets.labels import SKIPPED_LABELS, is_name

OUTLINES = frozenset({"polygon", "oriented_rectangle", "rotation"})
"""Shapes whose points are their corners; X-AnyLabeling calls an oriented rectangle `rotation`."""
AREA_SHAPES = OUTLINES | {"rectangle", "circle", "mask"}


@dataclass(frozen=True)
class Shape:
    """One shape as labelme drew it; `index` is its place in the file."""

    index: int
    label: str
    kind: str
    points: tuple[tuple[float, float], ...]
    group_id: int | str | None
    bitmap: str | None = None


@dataclass(frozen=True)
class LabelledPhoto:
    """One labelme file; the photo lies at `image_path`, or in `image_data` when the file has it embedded."""

    path: Path
    shapes: tuple[Shape, ...]
    image_path: Path
    image_data: bytes | None
    stated_size: tuple[int, int] | None

    def image_bytes(self) -> bytes:
        """The photo's file, from disk where it is there, else from the JSON.

        Raises:
            DataError: when it is neither.
        """
        if self.image_path.is_file():
            return self.image_path.read_bytes()
        if self.image_data is not None:
            return self.image_data
        raise DataError(
            f"{self.path}: its photo {self.image_path} is missing; put it there, correct imagePath, "
            "or save in labelme with the image data embedded."
        )


def is_labelme(content: object) -> bool:
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def read_labelme(path: Path) -> LabelledPhoto:
    """Read one labelme file.

    Raises:
        DataError: when it is no JSON, no labelme file, or a shape lacks a label or points.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON: {error}. Save it again in labelme, or remove it.") from None
    if not is_labelme(content):
        raise DataError(f"{path} is not a labelme file: it has no shapes or no imagePath. Move it elsewhere.")
    return LabelledPhoto(
        path=path,
        shapes=tuple(_shape(path, index, shape) for index, shape in enumerate(content["shapes"])),
        image_path=path.parent / _image_path(path, content),
        image_data=_embedded(path, content.get("imageData")),
        stated_size=_stated_size(path, content),
    )


def _image_path(path: Path, content: Mapping[str, Any]) -> str:
    name = content["imagePath"]
    if not names_a_file(name):
        raise DataError(f"{path}: its imagePath {name!r} names no file; save the file again in labelme.")
    return str(name).replace("\\", "/")


def _shape(path: Path, index: int, shape: Any) -> Shape:
    try:
        points = tuple((float(x), float(y)) for x, y in shape["points"])
        label, group_id = str(shape["label"]), shape.get("group_id")
        kind, bitmap = str(shape.get("shape_type") or "polygon"), shape.get("mask")
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        raise DataError(f"{path}: shape {index} has no label or no list of [x, y] points; draw it again.") from None
    if shape["label"] is None or not is_name(label):
        raise DataError(f"{path}: shape {index} has the label {shape['label']!r}, which is no name; give it one.")
    if not all(math.isfinite(v) for point in points for v in point):
        raise DataError(f"{path}: shape {index} ({label}) has a point that is not a number; draw it again.")
    if not isinstance(group_id, int | str | None) or not isinstance(bitmap, str | None):
        raise DataError(
            f"{path}: shape {index} ({label}) has a group_id or mask as labelme writes none; draw it again."
        )
    return Shape(index, label.strip(), kind, points, group_id, bitmap)


def _embedded(path: Path, data: Any) -> bytes | None:
    if not data:
        return None
    try:
        return base64.b64decode(data, validate=False)
    except (binascii.Error, TypeError, ValueError):
        raise DataError(f"{path}: its imageData is not base64; save the file again in labelme.") from None


def _stated_size(path: Path, content: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = content.get("imageHeight"), content.get("imageWidth")
    try:
        return (int(float(height)), int(float(width))) if height and width else None
    except (TypeError, ValueError, OverflowError):
        wrong = f"its imageHeight {height!r} or imageWidth {width!r} is no number of px"
        raise DataError(f"{path}: {wrong}; save the file again in labelme.") from None


def polygons(shape: Shape) -> list[Polygon]:
    """A shape's outlines; none for shapes without area (points, lines) and for ones with too few points."""
    # X-AnyLabeling writes all four corners of a rectangle, labelme two that are opposite
    if shape.kind in OUTLINES or (shape.kind == "rectangle" and len(shape.points) > 2):
        return [list(shape.points)] if len(shape.points) >= 3 else []
    if len(shape.points) < 2 or shape.kind not in AREA_SHAPES:
        return []
    (x0, y0), (x1, y1) = shape.points[0], shape.points[1]
    if shape.kind == "rectangle":
        return [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)]]
    if shape.kind == "circle":
        radius = math.hypot(x1 - x0, y1 - y0)
        return [ellipse((x0, y0), (radius, radius))] if radius else []
    return _traced(shape, (min(x0, x1), min(y0, y1)))


def _traced(shape: Shape, corner: tuple[float, float]) -> list[Polygon]:
    """Outlines of a `mask` shape's bitmap, which lies with its top left pixel at `corner`; holes are filled.

    What touches at a corner alone is two pieces: one outline around both would touch itself.
    """
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(shape.bitmap or "")))
        mask = (np.asarray(picture.convert("L")) > 0).astype(np.uint8)
    except (OSError, ValueError, UnidentifiedImageError):
        return []
    _, numbers, bounds, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    outlines = []
    for number, (x0, y0, width, height, _area_px) in enumerate(bounds[1:].tolist(), 1):
        piece = (numbers[y0 : y0 + height, x0 : x0 + width] == number).astype(np.uint8)
        fine = np.kron(piece, np.ones((2, 2), np.uint8))
        (contour,), _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(2 * x0, 2 * y0))
        outlines.append(cv2.approxPolyDP(contour, 0.6, True)[:, 0])
    return [
        [((x + 0.5) / 2 + corner[0], (y + 0.5) / 2 + corner[1]) for x, y in o.tolist()] for o in outlines if len(o) >= 3
    ]


def instances(shapes: Sequence[Shape]) -> Iterator[Instance]:
    """Objects in the order of their first shape: shapes of one label with one `group_id` are one object."""
    groups: dict[tuple[object, ...], list[Shape]] = {}
    for shape in shapes:
        if shape.label not in SKIPPED_LABELS:
            key = ("alone", shape.index) if shape.group_id is None else ("group", shape.label, shape.group_id)
            groups.setdefault(key, []).append(shape)
    for members in groups.values():
        outlines = tuple(outline for shape in members for outline in polygons(shape))
        if outlines:
            yield Instance(members[0].label, outlines, tuple(shape.index for shape in members))
