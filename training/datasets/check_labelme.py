"""One labelme file ▶ findings: its photo first, then each of its shapes ▶ its objects."""

from __future__ import annotations

from collections.abc import Iterator

from maskserve.protos.errors import DataError
from maskserve.training.datasets import labelme
from maskserve.training.datasets.findings import Finding, Where, polygon_findings
from maskserve.training.datasets.geometry import bounding_box, clip_all, outline_area
from maskserve.training.datasets.labelme import LabelledPhoto
from maskserve.training.datasets.labels import SKIPPED_LABELS
from maskserve.training.datasets.photos import check_pixels, photo_size
from maskserve.training.datasets.survey import Thing


def photo_findings(photo: LabelledPhoto, data: bytes) -> list[Finding]:
    """At most one finding: the photo in `data` cannot be read, or is not of the size that was labelled."""
    where = Where(str(photo.path))
    try:
        size = photo_size(data)
        check_pixels(data)
    except DataError as error:
        text = f"its photo {photo.image_path} cannot be used: {error}; replace it"
        return [Finding("error", "unreadable-photo", where, text)]
    if photo.stated_size in (None, size):
        return []
    height, width = photo.stated_size or size
    turned = " (upright, as its EXIF orientation says)" if (width, height) == size else ""
    text = (
        f"labelled at {width}×{height} px, but {photo.image_path.name} has {size[1]}×{size[0]} px{turned}; "
        "put the photo there that was labelled, or label this one again"
    )
    return [Finding("error", "size-mismatch", where, text)]


def shape_findings(photo: LabelledPhoto, size: tuple[int, int]) -> list[Finding]:
    """What is wrong with the shapes of a photo of `size` (height, width)."""
    found: list[Finding] = []
    for shape in photo.shapes:
        if shape.label in SKIPPED_LABELS:
            continue
        where = Where(str(photo.path), shape.index)
        if shape.kind not in labelme.AREA_SHAPES:
            text = f"a {shape.kind} has no area and is left out; draw a polygon for {shape.label!r}"
            found.append(Finding("warning", "no-area", where, text))
            continue
        outlines = labelme.polygons(shape)
        if not outlines:
            text = f"the {shape.kind} of {shape.label!r} is empty; draw it again or delete it"
            found.append(Finding("error", "empty-polygon", where, text))
        for outline in outlines:
            found.extend(polygon_findings(outline, size, where, shape.label))
    if next(labelme.instances(photo.shapes), None) is None:
        found.append(Finding("warning", "no-labels", Where(str(photo.path)), "the photo has no labelled object"))
    return found


def labelme_things(photo: LabelledPhoto, size: tuple[int, int], split: str) -> Iterator[Thing]:
    """The objects of a photo of `size` (height, width), as far as they lie in it."""
    for instance in labelme.instances(photo.shapes):
        pieces = clip_all(instance.polygons, size)
        if pieces:
            _, _, width, height = bounding_box(pieces)
            area_px = sum(map(outline_area, pieces))
            yield Thing(str(photo.path), split, instance.label, (height, width), area_px, size)
