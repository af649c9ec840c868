"""A manifest is a COCO instance file: one split's photos, its polygons and its classes.

    JSON ▶ load_manifest (validated) ▶ register ▶ Detectron2's DatasetCatalog ▶ dataset_dicts

`file_name` is relative to the manifest's folder, or absolute. Category ids may have gaps, masks may be polygons,
compressed or uncompressed RLE; Detectron2 sees classes 0..N-1 in the file's order of categories. Boxes are XYWH px,
sizes (height, width), both of the photo after EXIF orientation.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from maskserve.protos.errors import DataError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Manifest:
    """What one split holds; `instances` counts the labelled instances of every class, crowds left out."""

    path: Path
    class_names: tuple[str, ...]
    image_count: int
    instances: Mapping[str, int]
    data_hash: str


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
    coco = _read(path)
    names = {int(c["id"]): str(c["name"]) for c in coco["categories"]}
    counts = Counter(int(a["category_id"]) for a in coco["annotations"] if not a.get("iscrowd"))
    instances = {name: counts[category_id] for category_id, name in names.items()}
    return Manifest(path, tuple(names.values()), len(coco["images"]), instances, _data_hash(coco, path))


def load_dataset(path: Path | str) -> Dataset:
    """The splits in a dataset folder (train.json and perhaps val.json, test.json) or beside a train manifest.

    A COCO file of another name stands alone: it is the training split.

    Raises:
        DataError: when there is no such folder or file, no train.json in it, or the splits' classes differ.
    """
    path = Path(path)
    if path.is_dir():
        folder = path
        _check_folder(folder)
    elif path.name == "train.json" or not path.is_file():
        folder = path.parent
    else:
        return Dataset(load_manifest(path))
    train = load_manifest(path if path.suffix == ".json" else folder / "train.json")
    others = {s: load_manifest(folder / f"{s}.json") for s in ("val", "test") if (folder / f"{s}.json").is_file()}
    for other in others.values():
        if other.class_names != train.class_names:
            raise DataError(
                f"{other.path} has the classes {', '.join(other.class_names)}, but {train.path.name} beside it has "
                f"{', '.join(train.class_names)}; make both with one `maskserve data import-labelme`."
            )
    return Dataset(train, others.get("val"), others.get("test"))


def register(manifest: Manifest, name: str) -> None:
    """Make `name` known to Detectron2's catalogs; a second call replaces the first."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    ids = [int(c["id"]) for c in _read(manifest.path)["categories"]]
    DatasetCatalog.register(name, lambda: dataset_dicts(manifest))
    MetadataCatalog.get(name).set(
        thing_classes=list(manifest.class_names),
        thing_dataset_id_to_contiguous_id={category_id: index for index, category_id in enumerate(ids)},
        json_file=str(manifest.path),
        evaluator_type="coco",
    )


def dataset_dicts(manifest: Manifest) -> list[dict[str, Any]]:
    """Detectron2's records, in the file's order of images; photos without labels are kept.

    An annotation without a usable mask (no segmentation, or no polygon of three points) is left out.
    """
    from detectron2.structures import BoxMode

    coco = _read(manifest.path)
    contiguous = {int(c["id"]): index for index, c in enumerate(coco["categories"])}
    records = {
        image["id"]: {
            "file_name": str(manifest.path.parent / image["file_name"]),
            "height": int(image["height"]),
            "width": int(image["width"]),
            "image_id": image["id"],
            "annotations": [],
        }
        for image in coco["images"]
    }
    for annotation in coco["annotations"]:
        record = records[annotation["image_id"]]
        segmentation = _segmentation(annotation.get("segmentation"), (record["height"], record["width"]))
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


def _segmentation(segmentation: Any, size: tuple[int, int]) -> Any:
    """Polygons of at least three points, or compressed RLE; empty when there is nothing to train on."""
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return coco_mask.frPyObjects(segmentation, *size)
        return segmentation
    return [p for p in segmentation or [] if len(p) >= 6 and len(p) % 2 == 0]


def _check_folder(folder: Path) -> None:
    if (folder / "train.json").is_file():
        return
    if any((folder / split).is_dir() for split in SPLITS) or any(folder.glob("*.json")):
        raise DataError(
            f"{folder} has no train.json. If it holds labelme files, run `maskserve data import-labelme {folder} "
            "-o dataset` and use that folder; if it holds a COCO file, name the file itself."
        )
    raise DataError(f"{folder} has no train.json and no labels; name a dataset folder or a COCO instance file.")


def _read(path: Path) -> dict[str, Any]:
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name a COCO manifest that exists.") from None
    return _parse(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _parse(path: Path, _mtime_ns: int, _size_bytes: int) -> dict[str, Any]:
    try:
        coco = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable JSON: {error}. Make it again or fix the file.") from None
    if not isinstance(coco, dict) or "shapes" in coco:
        kind = (
            "a labelme file; run `maskserve data import-labelme` on its folder" if isinstance(coco, dict) else "a list"
        )
        raise DataError(f"{path} is not a COCO instance file but {kind}.")
    for key in ("images", "annotations", "categories"):
        if not isinstance(coco.get(key), list) or (key != "annotations" and not coco[key]):
            raise DataError(f"{path} is not a COCO instance file: it has no list of {key!r}.")
    _check_entries(path, coco)
    return coco


def _check_entries(path: Path, coco: dict[str, Any]) -> None:
    needed = {
        "images": {"id", "file_name", "height", "width"},
        "categories": {"id", "name"},
        "annotations": {"id", "image_id", "category_id", "bbox"},
    }
    for key, fields in needed.items():
        for index, entry in enumerate(coco[key]):
            missing = fields - set(entry) if isinstance(entry, dict) else fields
            if missing:
                raise DataError(f"{path}: {key}[{index}] has no {', '.join(sorted(missing))}; complete the file.")
    image_ids, category_ids = ({e["id"] for e in coco[key]} for key in ("images", "categories"))
    for key, known in (("images", image_ids), ("categories", category_ids)):
        if len(known) < len(coco[key]):
            raise DataError(f"{path}: two {key} have the same id; give each its own.")
    for index, annotation in enumerate(coco["annotations"]):
        if annotation["image_id"] not in image_ids:
            raise DataError(f"{path}: annotations[{index}] names image {annotation['image_id']}, which is not there.")
        if annotation["category_id"] not in category_ids:
            raise DataError(
                f"{path}: annotations[{index}] names category {annotation['category_id']}, which is not there."
            )


def _data_hash(coco: dict[str, Any], path: Path) -> str:
    ours = coco.get("info") if isinstance(coco.get("info"), dict) else {}
    named = (ours or {}).get("maskserve", {}).get("data_hash")
    return str(named) if named else hashlib.sha256(path.read_bytes()).hexdigest()
