"""A manifest is a COCO instance file: one split's photos, its polygons and its classes.

    JSON ▶ load_manifest (validated) ▶ register ▶ Detectron2's DatasetCatalog ▶ dataset_dicts

`file_name` is relative to the manifest's folder, or absolute. Category ids may have gaps, masks may be polygons,
compressed or uncompressed RLE; Detectron2 sees classes 0..N-1 in the file's order of categories. Boxes are XYWH px,
sizes (height, width), both of the photo after EXIF orientation.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskserve.protos.errors import DataError
from maskserve.training.datasets.coco import image_root, read_coco, split_files
from maskserve.training.datasets.geometry import compressed
from maskserve.training.own_command import own_command


@dataclass(frozen=True)
class Manifest:
    """What one split holds; `instances` counts the labelled instances of every class, crowds left out."""

    path: Path
    class_names: tuple[str, ...]
    image_count: int
    instances: Mapping[str, int]
    data_hash: str
    image_root: Path
    """The folder that relative file names start from."""


@dataclass(frozen=True)
class Dataset:
    """The splits of a dataset folder, all with the same classes."""

    train: Manifest
    val: Manifest | None = None
    test: Manifest | None = None


def load_manifest(path: Path | str) -> Manifest:
    """Read and check the structure of a manifest or of anybody's COCO instance file.

    Raises:
        DataError: when it is missing, no JSON, no COCO instance file, without photos or without classes.
    """
    path = Path(path).resolve()
    coco = read_coco(path)
    names = {int(c["id"]): str(c["name"]) for c in coco["categories"]}
    counts = Counter(int(a["category_id"]) for a in coco["annotations"] if not a.get("iscrowd"))
    instances = {name: counts[category_id] for category_id, name in names.items()}
    return Manifest(
        path, tuple(names.values()), len(coco["images"]), instances, _data_hash(coco, path), image_root(coco, path)
    )


def load_dataset(path: Path | str) -> Dataset:
    """The splits of a dataset folder, or of the folder that a train manifest lies in.

    A COCO file that is nobody's train manifest stands alone: it is the training split.

    Raises:
        DataError: when there is no such folder or file, no training split in it, or the splits' classes differ.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist; name a dataset folder or a COCO instance file.")
    files = split_files(path if path.is_dir() else path.parent)
    if path.is_file() and files.get("train") != path:
        return Dataset(load_manifest(path))
    if "train" not in files:
        raise DataError(
            f"{path} has no train.json. If it holds labelme, VIA or COCO files, run "
            f"`{own_command('data', 'import', path, '-o', 'dataset')}` and use that folder; a COCO file can also be "
            "named itself."
        )
    manifests = {split: load_manifest(file) for split, file in files.items()}
    train = manifests["train"]
    for other in manifests.values():
        if other.class_names != train.class_names:
            raise DataError(
                f"{other.path} has the classes {', '.join(other.class_names)}, but {train.path.name} has "
                f"{', '.join(train.class_names)}; all splits need the same classes in the same order."
            )
    return Dataset(train, manifests.get("val"), manifests.get("test"))


def register(manifest: Manifest, name: str) -> None:
    """Make `name` known to Detectron2's catalogs; a second call replaces the first."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    ids = [int(c["id"]) for c in read_coco(manifest.path)["categories"]]
    DatasetCatalog.register(name, lambda: dataset_dicts(manifest))
    MetadataCatalog.get(name).set(
        thing_classes=list(manifest.class_names),
        thing_dataset_id_to_contiguous_id={category_id: index for index, category_id in enumerate(ids)},
        evaluator_type="coco",
        **({"json_file": str(manifest.path)} if _fit_for_evaluation(manifest) else {}),
    )


def _fit_for_evaluation(manifest: Manifest) -> bool:
    """Whether pycocotools can take the file as it is; Detectron2's evaluator writes its own from the records else.

    pycocotools needs `area` and `iscrowd`, and takes an annotation with id 0 for one that was not matched.
    """
    annotations = read_coco(manifest.path)["annotations"]
    ids = {annotation["id"] for annotation in annotations}
    return all("area" in a and "iscrowd" in a for a in annotations) and len(ids | {0}) == len(annotations) + 1


def dataset_dicts(manifest: Manifest) -> list[dict[str, Any]]:
    """Detectron2's records, in the file's order of images; photos without labels are kept.

    An annotation without a usable mask (see `usable_mask`) is left out.
    """
    from detectron2.structures import BoxMode

    coco = read_coco(manifest.path)
    contiguous = {int(c["id"]): index for index, c in enumerate(coco["categories"])}
    records = {
        image["id"]: {
            "file_name": str(manifest.image_root / image["file_name"]),
            "height": int(image["height"]),
            "width": int(image["width"]),
            "image_id": image["id"],
            "annotations": [],
        }
        for image in coco["images"]
    }
    for annotation in coco["annotations"]:
        record = records[annotation["image_id"]]
        segmentation = usable_mask(annotation, (record["height"], record["width"]))
        if segmentation:
            record["annotations"].append(
                {
                    "bbox": list(annotation["bbox"]),
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": contiguous[int(annotation["category_id"])],
                    "segmentation": segmentation,
                    "iscrowd": int(annotation.get("iscrowd", 0)),
                }
            )
    return list(records.values())


def usable_mask(annotation: Mapping[str, Any], size: tuple[int, int]) -> Any:
    """Its polygons of at least three points, or its compressed RLE; empty where there is nothing to learn from: without
    either, and where an RLE is not of the photo's `size` (height, width)."""
    segmentation = annotation.get("segmentation") or []
    if isinstance(segmentation, dict):
        return compressed(segmentation, size) if list(segmentation["size"]) == list(size) else []
    return [polygon for polygon in segmentation if len(polygon) >= 6]


def _data_hash(coco: dict[str, Any], path: Path) -> str:
    ours = coco.get("info") if isinstance(coco.get("info"), dict) else {}
    named = (ours or {}).get("maskserve", {}).get("data_hash")
    return str(named) if named else hashlib.sha256(path.read_bytes()).hexdigest()
