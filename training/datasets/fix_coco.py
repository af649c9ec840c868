"""COCO manifests ▶ classes ▶ frames ▶ outlines, boxes, areas ▶ ids ▶ manifests of the same names, the same photos."""

from __future__ import annotations

import copy
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from maskserve.protos.errors import DataError
from maskserve.training.datasets.changes import Change, SplitPhoto, twins
from maskserve.training.datasets.check_coco import wrong_box
from maskserve.training.datasets.coco import image_root, read_coco
from maskserve.training.datasets.findings import Where
from maskserve.training.datasets.frames import FrameChange, frame_change
from maskserve.training.datasets.geometry import DECIMALS, Polygon, bounding_box, coco_geometry, compressed, pairs
from maskserve.training.datasets.labelme_writer import relative_name
from maskserve.training.datasets.labels import SKIPPED_LABELS, LabelTable
from maskserve.training.datasets.photos import decode_photo, orientation, pixel_hash
from maskserve.training.datasets.repair import DONE, dropped, repair
from maskserve.training.datasets.survey import ordered

Json = dict[str, Any]


def fix_manifests(
    files: Mapping[str, Path],
    path: Path,
    out_dir: Path,
    staged: Path,
    labels: LabelTable | None,
    on_photo: Callable[[int, int], None],
) -> Iterator[Change]:
    """Write the manifests {split: file} of `path` repaired into `staged`, as they shall lie in `out_dir`.

    Raises:
        DataError: a file is broken, or its photos are all in a later split.
    """
    folder = path if path.is_dir() else path.parent
    menders = {split: _Mender(file, split, labels) for split, file in files.items()}
    total = sum(len(mender.coco["images"]) for mender in menders.values())
    done = 0
    for mender in menders.values():
        for image in mender.coco["images"]:
            mender.mend(image)
            on_photo(done := done + 1, total)
    surplus = twins(photo for mender in menders.values() for photo in mender.photos)
    class_names = _class_names(menders.values(), labels)
    for mender in menders.values():
        mender.take_out({image_id: stays for (split, image_id), stays in surplus.items() if split == mender.split})
        if class_names:
            mender.set_classes(class_names)
        mender.number()
    changed = any(mender.changes for mender in menders.values())
    for mender in menders.values():
        name = mender.path.relative_to(folder)
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).write_text(json.dumps(mender.written((out_dir / name).parent, changed)), encoding="utf-8")
        yield from mender.changes


def _class_names(menders: Iterable[_Mender], labels: LabelTable | None) -> tuple[str, ...] | None:
    """The classes of all splits, None when they can stay as they are."""
    names = ordered(name for mender in menders for name in mender.names.values())
    if labels is None or all(labels.corrected(name) == name for name in names):
        return None
    left = (labels.corrected(name) for name in names)
    return tuple(name for name in ordered([*labels.class_names, *left]) if name not in SKIPPED_LABELS)


class _Mender:
    """Mends one manifest and notes what it changes."""

    def __init__(self, path: Path, split: str, labels: LabelTable | None) -> None:
        self.path, self.split, self.labels = path, split, labels
        self.coco: Json = copy.deepcopy(read_coco(path))
        self.root = image_root(self.coco, path)
        self.names = {category["id"]: str(category["name"]) for category in self.coco["categories"]}
        self.by_image: defaultdict[Any, list[Json]] = defaultdict(list)
        for annotation in self.coco["annotations"]:
            self.by_image[annotation["image_id"]].append(annotation)
        self.photos: list[SplitPhoto] = []
        self.changes: list[Change] = []

    def mend(self, image: Json) -> None:
        """The photo's size and its annotations' outlines, boxes and areas."""
        annotations = self.by_image[image["id"]]
        frame = self._frame(image, annotations)
        if frame is not None:
            self._note("size-mismatch", None, f"{image['file_name']}: {frame}")
            image["height"], image["width"] = frame.real
        size = int(image["height"]), int(image["width"])
        self.by_image[image["id"]] = [a for a in annotations if self._mend_annotation(a, size, frame)]

    def _frame(self, image: Json, annotations: Sequence[Json]) -> FrameChange | None:
        try:
            data = (self.root / image["file_name"]).read_bytes()
            pixels = decode_photo(data)
        except (OSError, DataError):
            return None
        self.photos.append(SplitPhoto((self.split, image["id"]), self.split, pixel_hash(pixels)))
        stated, real = (int(image["height"]), int(image["width"])), pixels.shape[:2]
        if stated == real or any(isinstance(a.get("segmentation"), dict) or "keypoints" in a for a in annotations):
            return None
        points = [point for a in annotations for outline in _outlines(a) or [_corners(a)] for point in outline]
        return frame_change(stated, real, orientation(data), points)

    def _mend_annotation(self, annotation: Json, size: tuple[int, int], frame: FrameChange | None) -> bool:
        """Whether it is kept."""
        segmentation, name = annotation.get("segmentation"), self.names[annotation["category_id"]]
        if not segmentation:  # its mask is a person's to draw
            if frame and not frame.only_size:
                annotation |= _moved_box(annotation, frame)
            return True
        if isinstance(segmentation, dict):
            return self._mend_rle(annotation, segmentation, size, name)
        repaired = [repair(frame.points(outline) if frame else outline, size) for outline in _outlines(annotation)]
        parts = [part for one in repaired for part in one.parts]
        codes = list(dict.fromkeys(code for one in repaired for code in one.codes))
        for code, text in [(code, DONE[code]) for code in codes] if parts else [dropped(codes)]:
            self._note(code, annotation, f"{name!r}: {text}")
        if not parts:
            return False
        if not codes and not frame and wrong_box(annotation, size) is not None:
            codes = ["box-mismatch"]
            self._note("box-mismatch", annotation, f"{name!r}: its box was drawn around its polygons")
        if codes or frame:
            annotation |= coco_geometry(parts, size) | {"iscrowd": annotation.get("iscrowd", 0)}
        self._complete(annotation, lambda: coco_geometry(parts, size)["area"])
        return True

    def _mend_rle(self, annotation: Json, rle: Json, size: tuple[int, int], name: str) -> bool:
        if list(rle.get("size", ())) != list(size):
            return True
        area_px = int(coco_mask.area(compressed(rle, size)))
        if not area_px and not annotation.get("iscrowd"):
            code, text = dropped(())
            self._note(code, annotation, f"{name!r}: {text}")
            return False
        self._complete(annotation, lambda: area_px)
        return True

    def _complete(self, annotation: Json, area_px: Callable[[], int]) -> None:
        missing = [field for field in ("area", "iscrowd") if field not in annotation]
        if missing:
            annotation |= {"area": area_px(), "iscrowd": 0} | annotation
            self._note("incomplete-annotation", annotation, f"{' and '.join(missing)} filled in")

    def take_out(self, surplus: Mapping[Any, SplitPhoto]) -> None:
        """Photos that are in a later split too.

        Raises:
            DataError: when that is all of them.
        """
        names = {image["id"]: image["file_name"] for image in self.coco["images"]}
        for image_id, stays in surplus.items():
            text = f"{names[image_id]} was taken out, because the same photo is in {stays.split!r}"
            self._note("duplicate-photo", None, text)
            del self.by_image[image_id]
        self.coco["images"] = [image for image in self.coco["images"] if image["id"] not in surplus]
        if not self.coco["images"]:
            raise DataError(f"{self.path}: all of its photos are in a later split too; choose other photos for one.")

    def set_classes(self, class_names: Sequence[str]) -> None:
        """Merge and rename categories; objects of ignored ones go."""
        renamed = {number: self.labels.corrected(name) for number, name in self.names.items()} if self.labels else {}
        counts = Counter(annotation["category_id"] for members in self.by_image.values() for annotation in members)
        for number, name in self.names.items():
            if renamed[number] != name:
                code = "relabelled" if self.labels and name in self.labels.classes else "unknown-label"
                became = "was left out" if renamed[number] in SKIPPED_LABELS else f"became {renamed[number]!r}"
                self._note(code, None, f"the label {name!r} {became} ({counts[number]} annotations)")
        new_ids = {name: index for index, name in enumerate(class_names, 1)}
        for image_id, members in self.by_image.items():
            kept = [annotation for annotation in members if renamed[annotation["category_id"]] in new_ids]
            for annotation in kept:
                annotation["category_id"] = new_ids[renamed[annotation["category_id"]]]
            self.by_image[image_id] = kept
        old = {renamed[category["id"]]: category for category in reversed(self.coco["categories"])}
        self.coco["categories"] = [old.get(name, {}) | {"id": new_ids[name], "name": name} for name in class_names]

    def written(self, folder: Path, changed: bool) -> Json:
        """The manifest for its place in `folder`; `changed` says whether any split's labels are no longer those that
        its import took a hash of."""
        kept = {id(annotation) for members in self.by_image.values() for annotation in members}
        self.coco["annotations"] = [a for a in self.coco["annotations"] if id(a) in kept]
        for image in self.coco["images"]:
            image["file_name"] = relative_name(self.root / image["file_name"], folder)
        if changed and isinstance(self.coco.get("info"), dict):
            self.coco["info"].pop("maskserve", None)
        return self.coco

    def number(self) -> None:
        """Ids that pycocotools cannot work with."""
        members = [annotation for one in self.by_image.values() for annotation in one]
        ids = {annotation["id"] for annotation in members}
        if 0 in ids or len(ids) < len(members):
            for number, annotation in enumerate(members, 1):
                annotation["id"] = number
            self._note("annotation-id", None, f"the {len(members)} annotations were numbered anew from 1")

    def _note(self, code: str, annotation: Json | None, text: str) -> None:
        number = int(annotation["id"]) if annotation else None
        self.changes.append(Change(code, Where(str(self.path), number, "annotation"), text))


def _outlines(annotation: Mapping[str, Any]) -> list[Polygon]:
    segmentation = annotation.get("segmentation")
    return [pairs(flat) for flat in segmentation] if isinstance(segmentation, list) else []


def _corners(annotation: Mapping[str, Any]) -> Polygon:
    """Two opposite ones of its box."""
    x, y, width, height = annotation["bbox"]
    return [(x, y), (x + width, y + height)]


def _moved_box(annotation: Mapping[str, Any], frame: FrameChange) -> Json:
    """`bbox` and `area` of an annotation without a mask, in the photo's frame."""
    x, y, width, height = bounding_box([frame.points(_corners(annotation))])
    return {"bbox": [x, y, round(width, DECIMALS), round(height, DECIMALS)], "area": round(width * height, DECIMALS)}
