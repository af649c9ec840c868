"""labelme JSON ▶ Example: one file, one photo."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from maskserve.protos.errors import DataError
from maskserve.training.datasets import labelme
from maskserve.training.datasets.check_labelme import photo_findings, shape_findings
from maskserve.training.datasets.example import Example, Instance, LabelFile
from maskserve.training.datasets.findings import Finding
from maskserve.training.datasets.geometry import clip_all
from maskserve.training.datasets.photos import digests, photo_size
from maskserve.training.datasets.sources import Source


def open_labelme(source: Source) -> LabelFile:
    """The one photo of a labelme file; its job says what is wrong with it."""
    return LabelFile((partial(_example, source),))


def _example(source: Source) -> tuple[Example, list[Finding]]:
    photo = labelme.read_labelme(source.path)
    data = photo.image_bytes()
    for unusable in photo_findings(photo, data):
        raise DataError(f"{unusable.where}: {unusable.message}.")
    size = photo_size(data)
    doubtful = [finding for finding in shape_findings(photo, size) if finding.code != "no-labels"]
    instances: list[Instance] = []
    for instance in labelme.instances(photo.shapes):
        inside = clip_all(instance.polygons, size)
        if inside:
            instances.append(replace(instance, polygons=inside))
    embedded = None if photo.image_path.is_file() else photo.image_bytes
    found = tuple(instances)
    example = Example(source.path, "shape", photo.image_path, size, *digests(data), found, source.split, embedded)
    return example, doubtful
