"""VIA file ▶ one Example a photo; the class of a region is the value of one of its attributes."""

from __future__ import annotations

from functools import partial

from maskserve.protos.errors import DataError
from maskserve.training.datasets.example import Example, Instance, LabelFile, read_photo, require_photos
from maskserve.training.datasets.findings import Finding, Where, polygon_findings
from maskserve.training.datasets.geometry import clip_all
from maskserve.training.datasets.labels import SKIPPED_LABELS
from maskserve.training.datasets.photos import digests
from maskserve.training.datasets.sources import Source
from maskserve.training.datasets.via import AREA_SHAPES, Region, ViaPhoto, class_attribute, read_via


def open_via(source: Source, attribute: str | None, only_class: str | None) -> LabelFile:
    """The photos of a VIA file.

    Args:
        attribute: the region attribute that names the class; found when there is just one.
        only_class: what all regions are when none has an attribute.

    Raises:
        DataError: when it is no VIA file, photos are missing, or the class attribute is unclear.
    """
    photos = read_via(source.path)
    require_photos([photo.path for photo in photos], source.path)
    name = class_attribute(source.path, photos, attribute)
    if name is None and only_class is None and any(photo.regions for photo in photos):
        raise DataError(
            f"{source.path}: no region has an attribute that names its class; add one in VIA, or give --labels with "
            "the one class that all of them are."
        )
    return LabelFile([partial(_example, source, photo, name, only_class) for photo in photos])


def _example(
    source: Source, photo: ViaPhoto, attribute: str | None, only_class: str | None
) -> tuple[Example, list[Finding]]:
    data, size = read_photo(photo.path, source.path)
    doubtful: list[Finding] = []
    if photo.size_bytes >= 0 and photo.size_bytes != len(data):
        text = f"labelled as a file of {photo.size_bytes} bytes, but it has {len(data)}; see whether the outlines fit"
        doubtful.append(Finding("warning", "size-mismatch", Where(str(photo.path)), text))
    instances: list[Instance] = []
    for region in photo.regions:
        label = _label(region, attribute, only_class)
        if label in SKIPPED_LABELS:
            continue
        where = Where(f"{source.path}, {photo.path.name}", region.index, "region")
        found = list(_region_findings(region, label, attribute, size, where))
        doubtful += found
        inside = clip_all([region.outline], size)
        if label is not None and inside:
            instances.append(Instance(label, inside, (region.index,)))
    return Example(source.path, "region", photo.path, size, *digests(data), tuple(instances), source.split), doubtful


def _label(region: Region, attribute: str | None, only_class: str | None) -> str | None:
    """The region's class; None when its attribute has no value, or several."""
    if attribute is None:
        return only_class
    values = region.values.get(attribute, ())
    return values[0] if len(values) == 1 else None


def _region_findings(
    region: Region, label: str | None, attribute: str | None, size: tuple[int, int], where: Where
) -> list[Finding]:
    if region.kind not in AREA_SHAPES:
        text = f"a {region.kind} has no area and is left out; draw a polygon"
        return [Finding("warning", "no-area", where, text)]
    if label is None:
        values = region.values.get(attribute or "", ())
        has = f"is {' and '.join(values)} at once" if values else "has no value"
        return [Finding("error", "no-class", where, f"its {attribute} {has}, so it is left out; choose one in VIA")]
    return list(polygon_findings(region.outline, size, where, label))
