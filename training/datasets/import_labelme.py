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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskserve.protos.errors import DataError
from maskserve.training.datasets import labelme
from maskserve.training.datasets.atomic import landing
from maskserve.training.datasets.check_labelme import photo_findings, shape_findings
from maskserve.training.datasets.coco import SPLITS
from maskserve.training.datasets.findings import Finding
from maskserve.training.datasets.geometry import clip, coco_geometry
from maskserve.training.datasets.labelme import Instance
from maskserve.training.datasets.photos import content_hash, extension, photo_size
from maskserve.training.datasets.sources import Source, find_labelme
from maskserve.training.datasets.splits import stratified


@dataclass(frozen=True)
class ImportOptions:
    """How photos without a split of their own are dealt out, and the classes' order."""

    test_fraction: float = 0.2
    val_fraction: float = 0.0
    seed: int = 0
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Example:
    """One photo, read and checked; `embedded` says that it has no file of its own but lies in the JSON."""

    path: Path
    image_path: Path
    embedded: bool
    size: tuple[int, int]
    digest: str
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
    sources = find_labelme(folders)
    _keep_apart(sources, out_dir)
    examples: list[Example] = []
    warnings: list[Finding] = []
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


def _keep_apart(sources: Sequence[Source], out_dir: Path) -> None:
    for source in sources:
        if source.path.resolve() in {(out_dir / f"{split}.json").resolve() for split in SPLITS}:
            raise DataError(f"{source.path} is a labelme file and would be overwritten; choose another output folder.")


def _read_example(source: Source) -> tuple[Example, list[Finding]]:
    photo = labelme.read_labelme(source.path)
    data = photo.image_bytes()
    for unusable in photo_findings(photo, data):
        raise DataError(f"{unusable.where}: {unusable.message}.")
    size = photo_size(data)
    warnings = [finding for finding in shape_findings(photo, size) if finding.code != "no-labels"]
    instances = []
    for instance in labelme.instances(photo.shapes):
        inside = tuple(piece for outline in instance.polygons for piece in clip(outline, size))
        if inside:
            instances.append(replace(instance, polygons=inside))
    embedded = not photo.image_path.is_file()
    digest = content_hash(data)
    return Example(photo.path, photo.image_path, embedded, size, digest, tuple(instances), source.split), warnings


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
                    f"{example.path}, shape {instance.shapes[0]}: the label {instance.label!r} is not in the "
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
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, example in enumerate(examples, 1):
        height, width = example.size
        file_name = _file_name(example, out_dir, staged)
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for instance in example.instances:
            category_id = class_names.index(instance.label) + 1
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category_id}
            annotations.append({**entry, **coco_geometry(instance.polygons, example.size)})
    found = Counter(instance.label for example in examples for instance in example.instances)
    counts = {name: found[name] for name in class_names}
    return {
        "info": {"maskserve": {"data_hash": data_hash, "split": split, "counts": counts}},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(class_names, 1)],
    }


def _file_name(example: Example, out_dir: Path, staged: Path) -> str:
    """Relative to the manifest with forward slashes; absolute when the photo is on another drive."""
    if example.embedded:
        data = labelme.read_labelme(example.path).image_bytes()
        name = f"images/{example.path.stem}-{example.digest[:8]}{extension(data)}"
        (staged / "images").mkdir(exist_ok=True)
        (staged / name).write_bytes(data)
        return name
    path = example.image_path.resolve()
    try:
        return Path(os.path.relpath(path, out_dir.resolve())).as_posix()
    except ValueError:
        return path.as_posix()
