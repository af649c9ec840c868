"""labelme folders ▶ read ▶ checked ▶ split ▶ one COCO manifest per split, all of them or none.

A folder with train/ and test/ (perhaps val/) inside, or folders so named, keep their split; other photos are dealt
out by class. Photos stay where they are and the manifests name them relative to themselves; photos that only exist
inside their JSON are written to `images/` beside the manifests.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely
from pycocotools import mask as coco_mask
from shapely.geometry import MultiPolygon
from shapely.geometry import Polygon as ShapelyPolygon

from maskserve.protos.errors import DataError
from maskserve.training.datasets import labelme
from maskserve.training.datasets.atomic import landing
from maskserve.training.datasets.findings import Finding, polygon_findings
from maskserve.training.datasets.labelme import Instance, LabelledPhoto, Polygon
from maskserve.training.datasets.manifest import SPLITS
from maskserve.training.datasets.photos import content_hash, extension, photo_size
from maskserve.training.datasets.splits import stratified


@dataclass(frozen=True)
class ImportOptions:
    """How photos without a split of their own are dealt out, and the classes' order."""

    test_fraction: float = 0.2
    val_fraction: float = 0.0
    seed: int = 0
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Source:
    """A labelme file with what the user's folders say of its split."""

    path: Path
    split: str | None


@dataclass(frozen=True)
class Example:
    """One photo, read and checked; `data` is kept only where the photo has no file of its own."""

    photo: LabelledPhoto
    size: tuple[int, int]
    digest: str
    embedded: bytes | None
    instances: tuple[Instance, ...]
    split: str | None

    @property
    def labels(self) -> frozenset[str]:
        return frozenset(instance.label for instance in self.instances)


@dataclass(frozen=True)
class Imported:
    """What an import made."""

    out_dir: Path
    class_names: tuple[str, ...]
    images: Mapping[str, int]
    counts: Mapping[str, Mapping[str, int]]
    """Split ─▶ class ─▶ instances."""
    data_hash: str
    warnings: tuple[Finding, ...]


def find_labelme(folders: Sequence[Path]) -> list[Source]:
    """All labelme files below the folders, sorted; other JSON files are passed over.

    Raises:
        DataError: a folder is missing, a JSON is broken, or there is no labelme file.
    """
    named = all(f.name in SPLITS for f in folders) and any(f.name == "train" for f in folders)
    sources: dict[Path, Source] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; name the folder with your labelme JSON files.")
        has_splits = (folder / "train").is_dir() and any((folder / s).is_dir() for s in SPLITS[1:])
        for path in sorted(folder.rglob("*.json")):
            inner = path.relative_to(folder).parts
            split = folder.name if named else inner[0] if has_splits and inner[0] in SPLITS else None
            if _is_labelme(path):
                sources.setdefault(path.resolve(), Source(path, split))
    if not sources:
        places = ", ".join(str(f) for f in folders)
        raise DataError(f"no labelme JSON files in {places}; label photos with labelme and save beside them.")
    return list(sources.values())


def _is_labelme(path: Path) -> bool:
    try:
        return labelme.is_labelme(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON: {error}. Save it again in labelme, or remove it.") from None


def import_labelme(
    folders: Sequence[Path],
    out_dir: Path,
    options: ImportOptions | None = None,
    *,
    on_photo: Callable[[int, int], None] = lambda _done, _total: None,
) -> Imported:
    """Write `train.json`, perhaps `val.json` and `test.json` into `out_dir`, replacing what was there.

    Raises:
        DataError: names the file at fault and what to do; nothing is written.
    """
    options = options or ImportOptions()
    sources, examples, warnings = find_labelme(folders), [], []
    for done, source in enumerate(sources, 1):
        example, found = _read_example(source)
        examples.append(example)
        warnings.extend(found)
        on_photo(done, len(sources))
    class_names = _class_names(examples, options.class_names)
    by_split = _dealt(examples, options)
    data_hash = _data_hash(examples, class_names)
    with landing(out_dir) as staged:
        manifests = {
            split: _manifest(members, split, class_names, data_hash, out_dir, staged)
            for split, members in by_split.items()
        }
        for split, manifest in manifests.items():
            (staged / f"{split}.json").write_text(json.dumps(manifest), encoding="utf-8")
    for split in SPLITS:
        if split not in by_split:
            (out_dir / f"{split}.json").unlink(missing_ok=True)
    counts = {split: manifest["info"]["maskserve"]["counts"] for split, manifest in manifests.items()}
    images = {split: len(members) for split, members in by_split.items()}
    return Imported(out_dir, class_names, images, counts, data_hash, tuple(warnings))


def _read_example(source: Source) -> tuple[Example, list[Finding]]:
    photo = labelme.read_labelme(source.path)
    data = photo.image_bytes()
    size = oriented_size(photo, data)
    warnings = [finding for finding in shape_findings(photo, size) if finding.code != "no-labels"]
    kept = [_inside(instance, size) for instance in labelme.instances(photo.shapes)]
    embedded = None if photo.image_path.is_file() else data
    instances = tuple(instance for instance in kept if instance.polygons)
    return Example(photo, size, content_hash(data), embedded, instances, source.split), warnings


def oriented_size(photo: LabelledPhoto, data: bytes) -> tuple[int, int]:
    """The photo's (height, width) after EXIF orientation.

    Raises:
        DataError: when it cannot be read or is not the size it was labelled at.
    """
    try:
        size = photo_size(data)
    except DataError as error:
        raise DataError(f"{photo.path}: its photo {photo.image_path} cannot be used: {error}; replace it.") from None
    if photo.stated_size not in (None, size):
        stated = f"{photo.stated_size[1]}×{photo.stated_size[0]}" if photo.stated_size else ""
        turned = " (after EXIF orientation)" if photo.stated_size == size[::-1] else ""
        raise DataError(
            f"{photo.path}: labelled at {stated} px, but {photo.image_path.name} is {size[1]}×{size[0]} px{turned}; "
            "put the photo that was labelled there, or label this one again."
        )
    return size


def shape_findings(photo: LabelledPhoto, size: tuple[int, int]) -> list[Finding]:
    """What is wrong with the shapes of one photo of `size`."""
    file, found = str(photo.path), []
    for shape in photo.shapes:
        if shape.label in labelme.SKIPPED_LABELS:
            continue
        outlines = labelme.polygons(shape)
        if shape.kind not in labelme.AREA_SHAPES:
            text = f"a {shape.kind} has no area and is left out; draw a polygon for {shape.label!r}"
            found.append(Finding("warning", "no-area", file, text, shape.index))
        elif not outlines:
            text = f"the {shape.kind} of {shape.label!r} is empty; draw it again or delete it"
            found.append(Finding("error", "empty-polygon", file, text, shape.index))
        for outline in outlines:
            found.extend(polygon_findings(outline, size, file, shape.index, shape.label))
    if not any(True for _ in labelme.instances(photo.shapes)):
        found.append(Finding("warning", "no-labels", file, "the photo has no labelled shape"))
    return found


def _inside(instance: Instance, size: tuple[int, int]) -> Instance:
    """The part of an instance inside the photo, without polygons that have no area."""
    clipped = tuple(piece for outline in instance.polygons for piece in _clip(outline, size))
    return Instance(instance.label, clipped, instance.shapes)


def _clip(outline: Polygon, size: tuple[int, int]) -> list[Polygon]:
    height, width = size
    if all(0 <= x <= width and 0 <= y <= height for x, y in outline):
        return [outline] if ShapelyPolygon(outline).convex_hull.area > 1e-6 else []
    cut = shapely.make_valid(ShapelyPolygon(outline)).intersection(shapely.box(0, 0, width, height))
    parts = list(cut.geoms) if hasattr(cut, "geoms") else [cut]
    flat = [p for part in parts for p in (part.geoms if isinstance(part, MultiPolygon) else [part])]
    return [list(p.exterior.coords)[:-1] for p in flat if isinstance(p, ShapelyPolygon) and p.area > 1e-6]


def _class_names(examples: Iterable[Example], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    found = Counter(instance.label for example in examples for instance in example.instances)
    if not found:
        raise DataError("no photo has a labelled polygon; draw some in labelme first.")
    if wanted is None:
        return tuple(sorted(found))
    for example in examples:
        for instance in example.instances:
            if instance.label not in wanted:
                raise DataError(
                    f"{example.photo.path}, shape {instance.shapes[0]}: the label {instance.label!r} is not in the "
                    f"label list ({', '.join(wanted)}); correct the label or add it to the list."
                )
    return wanted


def _dealt(examples: Sequence[Example], options: ImportOptions) -> dict[str, list[Example]]:
    """Split ─▶ its examples; copies of one photo stay together."""
    train_share = 1 - options.test_fraction - options.val_fraction
    fractions = {"train": train_share, "val": options.val_fraction, "test": options.test_fraction}
    fractions = {split: share for split, share in fractions.items() if share > 0}
    open_examples: dict[str, list[Example]] = {}
    for example in examples:
        if example.split is None:
            open_examples.setdefault(example.digest, []).append(example)
    labels = [frozenset[str]().union(*(e.labels for e in group)) for group in open_examples.values()]
    dealt = dict(zip(open_examples, stratified(labels, fractions, options.seed), strict=True))
    splits = {split: [e for e in examples if (e.split or dealt[e.digest]) == split] for split in SPLITS}
    if not any(example.instances for example in splits["train"]):
        raise DataError("the training split has no labelled photo; label more photos or lower the test fraction.")
    return {split: members for split, members in splits.items() if members}


def _data_hash(examples: Iterable[Example], class_names: tuple[str, ...]) -> str:
    """SHA-256 of the photos' bytes and labels; where the files lie and in which order does not matter."""
    lines = sorted(
        json.dumps([e.digest, [[i.label, i.polygons] for i in e.instances]], separators=(",", ":")) for e in examples
    )
    return hashlib.sha256("\n".join([json.dumps(class_names), *lines]).encode()).hexdigest()


def _manifest(
    examples: Sequence[Example], split: str, class_names: tuple[str, ...], data_hash: str, out_dir: Path, staged: Path
) -> dict[str, Any]:
    images, annotations = [], []
    for image_id, example in enumerate(examples, 1):
        height, width = example.size
        file_name = _file_name(example, out_dir, staged)
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for instance in example.instances:
            category_id = class_names.index(instance.label) + 1
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category_id}
            annotations.append({**entry, **_geometry(instance, example.size)})
    found = Counter(instance.label for example in examples for instance in example.instances)
    counts = {name: found[name] for name in class_names}
    return {
        "info": {"maskserve": {"data_hash": data_hash, "split": split, "counts": counts}},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(class_names, 1)],
    }


def _geometry(instance: Instance, size: tuple[int, int]) -> dict[str, Any]:
    flat = [[round(v, 2) for point in outline for v in point] for outline in instance.polygons]
    xs, ys = [x for p in flat for x in p[::2]], [y for p in flat for y in p[1::2]]
    area_px = int(coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(flat, *size))))
    bbox = [round(v, 2) for v in (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))]
    return {"segmentation": flat, "bbox": bbox, "area": area_px, "iscrowd": 0}


def _file_name(example: Example, out_dir: Path, staged: Path) -> str:
    """Relative to the manifest with forward slashes; absolute when the photo is on another drive."""
    if example.embedded is not None:
        name = f"images/{example.photo.path.stem}-{example.digest[:8]}{extension(example.embedded)}"
        (staged / "images").mkdir(exist_ok=True)
        (staged / name).write_bytes(example.embedded)
        return name
    path = example.photo.image_path.resolve()
    try:
        return Path(os.path.relpath(path, out_dir.resolve())).as_posix()
    except ValueError:
        return path.as_posix()
