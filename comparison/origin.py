"""What the photos of a comparison are to a training: of which data set, and which split of it."""

from __future__ import annotations

from pathlib import Path

from maskserve.comparison.results import Origin
from maskserve.training.datasets.coco import read_coco
from maskserve.training.datasets.manifest import Manifest, load_dataset


def origin(data: Path, split: str, manifest: Manifest) -> Origin:
    """Of the photos in `manifest`, which is `split` of the dataset folder `data`, or `data` itself.

    An import says so in its manifests. Of other COCO files those in a folder are one data set, whose train file has
    the hash; one that stands alone is what a training on it would see, whatever its name.

    Raises:
        DataError: see `load_dataset`.
    """
    info = read_coco(manifest.path).get("info")
    imported = info.get("maskserve") if isinstance(info, dict) else None
    if imported:
        return Origin(manifest.data_hash, imported.get("split", split))
    if data.is_dir():
        return Origin(load_dataset(data).train.data_hash, split)
    return Origin(manifest.data_hash, "train")
