"""Label files of any format ▶ read ▶ checked ▶ split ▶ one COCO manifest per split, all of them or none.

    paths ▶ find_labels ▶ from_labelme | from_coco | from_via ▶ Example, one form for all ▶ splits ▶ manifests

A folder with train/ and test/ (perhaps val/) inside, folders so named, and COCO files so named keep their split; other
photos are dealt out by class. Photos stay where they are and the manifests name them relative to themselves; photos
that only exist inside their JSON are written to `images/` beside the manifests.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskserve.protos.errors import ConfigError, DataError
from maskserve.training.datasets.atomic import landing
from maskserve.training.datasets.coco import SPLITS
from maskserve.training.datasets.example import Example, Instance, LabelFile
from maskserve.training.datasets.findings import Finding, Where
from maskserve.training.datasets.from_coco import open_coco
from maskserve.training.datasets.from_labelme import open_labelme
from maskserve.training.datasets.from_via import open_via
from maskserve.training.datasets.geometry import coco_geometry, rle_geometry
from maskserve.training.datasets.labelme_writer import relative_name
from maskserve.training.datasets.labels import LabelTable
from maskserve.training.datasets.photos import extension
from maskserve.training.datasets.sources import Source, find_labels, is_ours
from maskserve.training.datasets.splits import stratified


@dataclass(frozen=True)
class ImportOptions:
    """How photos without a split are dealt out, which labels are which classes, and VIA's attribute for them."""

    test_fraction: float = 0.2
    val_fraction: float = 0.0
    seed: int = 0
    labels: LabelTable | None = None
    via_attribute: str | None = None


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


def import_labels(
    paths: Sequence[Path],
    out_dir: Path,
    options: ImportOptions | None = None,
    *,
    on_photo: Callable[[int, int], None] = lambda _done, _total: None,
) -> Imported:
    """Write `train.json`, perhaps `val.json` and `test.json` into `out_dir`, replacing those of an earlier import.

    Raises:
        ConfigError: an option does not fit the files.
        DataError: names the file at fault and what to do; nothing is written.
    """
    options = options or ImportOptions()
    sources, warnings = find_labels(paths)
    _keep_apart(sources, out_dir)
    files = [_opened(source, options) for source in sources]
    jobs = [job for file in files for job in file.jobs]
    examples: list[Example] = []
    for done, job in enumerate(jobs, 1):
        example, doubtful = job()
        examples.append(example.relabelled(options.labels) if options.labels else example)
        warnings += doubtful
        on_photo(done, len(jobs))
    class_names = _class_names(examples, files, options.labels)
    by_split = _dealt(examples, options)
    data_hash = _data_hash(by_split, class_names)
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


def _keep_apart(sources: Sequence[Source], out_dir: Path) -> None:
    """Only manifests that an import made, and that are not read here, are replaced or taken away."""
    read = {source.path.resolve() for source in sources}
    for file in (out_dir / f"{split}.json" for split in SPLITS):
        if file.exists() and (file.resolve() in read or not is_ours(file)):
            what = "is read here" if file.resolve() in read else "is not of an earlier import"
            raise DataError(f"{file} {what} and would be overwritten; choose another output folder.")


def _opened(source: Source, options: ImportOptions) -> LabelFile:
    if source.format == "via":
        names = options.labels.class_names if options.labels else ()
        return open_via(source, options.via_attribute, names[0] if len(names) == 1 else None)
    if options.via_attribute is not None:
        raise ConfigError(f"--via-attribute is for VIA files, and {source.path} is none; leave it out.")
    return open_coco(source) if source.format == "coco" else open_labelme(source)


def _class_names(examples: Iterable[Example], files: Iterable[LabelFile], labels: LabelTable | None) -> tuple[str, ...]:
    """The wanted classes, or those that COCO files declare in their order and then the others by name."""
    places: dict[str, Where] = {}
    for example in examples:
        for instance in example.instances:
            places.setdefault(instance.label, example.where(instance))
    if not places:
        raise DataError("no photo has a labelled polygon; draw some first.")
    if labels is None:
        declared = (name for file in files for name in file.class_names)
        return tuple(dict.fromkeys([*declared, *sorted(places)]))
    for label, where in places.items():
        if label not in labels.class_names:
            raise DataError(
                f"{where}: the label {label!r} is not in the label list ({', '.join(labels.class_names)}); "
                "correct the label or add it to the list."
            )
    return labels.class_names


def _dealt(examples: Sequence[Example], options: ImportOptions) -> dict[str, list[Example]]:
    """Split ─▶ its examples; copies of one photo stay together."""
    train_share = 1 - options.test_fraction - options.val_fraction
    fractions = {"train": train_share, "val": options.val_fraction, "test": options.test_fraction}
    fractions = {split: share for split, share in fractions.items() if share > 0}
    stated = {example.pixel_digest: example.split for example in examples if example.split}
    open_examples: dict[str, list[Example]] = {}
    for example in examples:
        if example.pixel_digest not in stated:
            open_examples.setdefault(example.pixel_digest, []).append(example)
    labels = [frozenset[str]().union(*(e.labels for e in group)) for group in open_examples.values()]
    dealt = stated | dict(zip(open_examples, stratified(labels, fractions, options.seed), strict=True))
    splits = {split: [e for e in examples if (e.split or dealt[e.pixel_digest]) == split] for split in SPLITS}
    if not any(example.instances for example in splits["train"]):
        raise DataError("the training split has no labelled photo; label more photos or lower the test fraction.")
    return {split: members for split, members in splits.items() if members}


def _data_hash(by_split: Mapping[str, Sequence[Example]], class_names: tuple[str, ...]) -> str:
    """SHA-256 of the photos' bytes, labels and splits; where the files lie and in which order does not matter."""
    rows = ([split, e.digest, list(map(_hashed, e.instances))] for split, members in by_split.items() for e in members)
    lines = sorted(json.dumps(row, separators=(",", ":")) for row in rows)
    return hashlib.sha256("\n".join([json.dumps(class_names), *lines]).encode()).hexdigest()


def _hashed(instance: Instance) -> list[Any]:
    crowd = ["crowd"] if instance.crowd else []
    return [instance.label, instance.rle or instance.polygons, *crowd]


def _manifest(
    examples: Sequence[Example], split: str, class_names: tuple[str, ...], data_hash: str, out_dir: Path, staged: Path
) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, example in enumerate(examples, 1):
        height, width = example.size
        file_name = _file_name(example, out_dir, staged)
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for instance in example.instances:
            category_id = class_names.index(instance.label) + 1
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category_id}
            annotations.append({**entry, **_geometry(instance, example.size)})
    found = Counter(i.label for example in examples for i in example.instances if not i.crowd)
    counts = {name: found[name] for name in class_names}
    return {
        "info": {"maskserve": {"data_hash": data_hash, "split": split, "counts": counts}},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(class_names, 1)],
    }


def _geometry(instance: Instance, size: tuple[int, int]) -> dict[str, Any]:
    if instance.rle:
        return rle_geometry(instance.rle, crowd=instance.crowd)
    return {**coco_geometry(instance.polygons, size), "iscrowd": int(instance.crowd)}


def _file_name(example: Example, out_dir: Path, staged: Path) -> str:
    if example.embedded is None:
        return relative_name(example.image_path, out_dir)
    data = example.embedded()
    name = f"images/{example.path.stem}-{example.digest[:8]}{extension(data)}"
    (staged / "images").mkdir(exist_ok=True)
    (staged / name).write_bytes(data)
    return name
