"""Labels ▶ findings, for labelme folders and for manifests.

paths ▶ one job a photo ▶ findings of the photo and its shapes
                        ▶ its labels, its pixels' hashes and its objects ▶ findings over all photos
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from maskserve.protos.errors import DataError
from maskserve.training.datasets import labelme
from maskserve.training.datasets.check_balance import imbalance_findings, tiny_findings
from maskserve.training.datasets.check_coco import (
    annotation_findings,
    box_findings,
    coco_things,
    id_findings,
    size_findings,
)
from maskserve.training.datasets.check_labelme import labelme_things, photo_findings, shape_findings
from maskserve.training.datasets.check_labels import label_findings, split_findings
from maskserve.training.datasets.coco import manifest_files, read_coco
from maskserve.training.datasets.duplicates import duplicate_findings, near_duplicate_findings, picture_hashes
from maskserve.training.datasets.findings import Finding, Where
from maskserve.training.datasets.labels import SKIPPED_LABELS, LabelTable
from maskserve.training.datasets.manifest import Manifest, load_manifest
from maskserve.training.datasets.photos import decode_photo, photo_size, pixel_hash
from maskserve.training.datasets.sources import Source, find_labelme, is_hidden
from maskserve.training.datasets.survey import Photo, Survey, Thing, ordered

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Report:
    photo_count: int
    findings: tuple[Finding, ...]
    survey: Survey = field(default=Survey(), compare=False, repr=False)

    @property
    def error_count(self) -> int:
        return sum(finding.level == "error" for finding in self.findings)

    @property
    def warning_count(self) -> int:
        return len(self.findings) - self.error_count


@dataclass
class Ledger:
    """What the jobs write down."""

    findings: list[Finding] = field(default_factory=list)
    labels: list[tuple[Where, str]] = field(default_factory=list)
    photos: list[Photo] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    """Of each photo, readable or not."""
    class_names: list[str] = field(default_factory=list)
    """Of the categories, which may be without an object."""
    folders: list[Path] = field(default_factory=list)
    """Folders with labelme files."""
    named: set[Path] = field(default_factory=set)
    """Photos that labelme files name."""

    def add_photo(self, where: Where, split: str, data: bytes) -> None:
        """Raises DataError when the photo cannot be read."""
        pixels = decode_photo(data)
        self.photos.append(Photo(where, split, pixels.shape[:2], pixel_hash(pixels), picture_hashes(pixels)))

    def survey(self, labels: LabelTable | None) -> Survey:
        class_of = labels.class_of if labels else str
        things = (replace(thing, class_name=class_of(thing.class_name)) for thing in self.things)
        kept = tuple(thing for thing in things if thing.class_name not in SKIPPED_LABELS)
        names = [*(labels.class_names if labels else ()), *map(class_of, self.class_names)]
        found = sorted({thing.class_name for thing in kept})
        class_names = (name for name in ordered([*names, *found]) if name not in SKIPPED_LABELS)
        labelled = Counter(self.splits)
        splits = tuple(split for split in labelled if split)
        return Survey(tuple(self.photos), kept, tuple(class_names), splits, labelled)


Job = Callable[[Ledger], None]


def check(
    paths: Sequence[Path],
    labels: LabelTable | None = None,
    *,
    on_photo: Callable[[int, int], None] = lambda _done, _total: None,
) -> Report:
    """Look at every photo and label of labelme folders, dataset folders and COCO files.

    Args:
        labels: the only labels allowed; without them rare labels close to a common one are pointed at.
        on_photo: called with (photos done, photos in all).

    Raises:
        DataError: when a path does not exist or has no labels at all.
    """
    ledger = Ledger()
    jobs = list(_jobs(paths, ledger))
    for done, job in enumerate(jobs, 1):
        job(ledger)
        on_photo(done, len(jobs))
    survey, where = ledger.survey(labels), Where(", ".join(map(str, paths)))
    ledger.findings += _unlabelled(ledger)
    ledger.findings += duplicate_findings(ledger.photos)
    ledger.findings += near_duplicate_findings(ledger.photos, where)
    ledger.findings += label_findings(ledger.labels, labels, where)
    ledger.findings += imbalance_findings(survey, where)
    ledger.findings += tiny_findings(survey, where)
    return Report(len(jobs), tuple(ledger.findings), survey)


def _jobs(paths: Sequence[Path], ledger: Ledger) -> Iterator[Job]:
    """Folders with labelme files are looked at together, as an import does it: one may be the split of another."""
    files_of = {path: manifest_files(path) for path in paths}
    ledger.folders += (path for path, files in files_of.items() if not files)
    if ledger.folders:
        yield from (partial(_check_labelme, source) for source in find_labelme(ledger.folders))
    for files in files_of.values():
        manifests = dict(_readable(files, ledger))
        ledger.findings += split_findings(manifests)
        for split, manifest in manifests.items():
            yield from _manifest_jobs(manifest, split, ledger)


def _readable(files: Mapping[str, Path], ledger: Ledger) -> Iterator[tuple[str, Manifest]]:
    for split, file in files.items():
        try:
            yield split, load_manifest(file)
        except DataError as error:
            ledger.findings.append(Finding.of_error(error, "broken-file", str(file)))


def _unlabelled(ledger: Ledger) -> Iterator[Finding]:
    """Photos that no labelme file names: labelme writes none as long as nothing is drawn."""
    for folder in ledger.folders:
        photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
        bare = [p for p in photos if p.resolve() not in ledger.named and not is_hidden(p, folder)]
        if bare:
            first = bare[0].relative_to(folder)
            text = f"photos without labelme JSON are not used; there are {len(bare)}, the first is {first}"
            yield Finding("warning", "no-labels", Where(str(folder)), text)


def _manifest_jobs(manifest: Manifest, split: str, ledger: Ledger) -> Iterator[Job]:
    coco = read_coco(manifest.path)
    names = {category["id"]: str(category["name"]) for category in coco["categories"]}
    by_image: defaultdict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in coco["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    ledger.class_names += names.values()
    ledger.findings += id_findings(coco["annotations"], manifest.path)
    for image in coco["images"]:
        yield partial(_check_image, manifest, image, by_image[image["id"]], names, split)


def _check_labelme(source: Source, ledger: Ledger) -> None:
    file, split = str(source.path), source.split or ""
    ledger.splits.append(split)
    try:
        photo = labelme.read_labelme(source.path)
    except DataError as error:
        ledger.findings.append(Finding.of_error(error, "broken-file", file))
        return
    ledger.named.add(photo.image_path.resolve())
    try:
        data = photo.image_bytes()
    except DataError as error:
        ledger.findings.append(Finding.of_error(error, "missing-photo", file))
        return
    unusable = photo_findings(photo, data)
    ledger.findings += unusable
    size = photo.stated_size if unusable else photo_size(data)
    if size is not None:
        ledger.findings += shape_findings(photo, size)
        ledger.things += labelme_things(photo, size, split)
    kept = (shape for shape in photo.shapes if shape.label not in SKIPPED_LABELS)
    ledger.labels += ((Where(file, shape.index), shape.label) for shape in kept)
    if not unusable:
        ledger.add_photo(Where(file), split, data)


def _check_image(
    manifest: Manifest,
    image: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    split: str,
    ledger: Ledger,
) -> None:
    path = manifest.image_root / image["file_name"]
    where = Where(str(path))
    ledger.splits.append(split)
    try:
        data = path.read_bytes()
        ledger.add_photo(where, split, data)
        ledger.findings += size_findings(image, photo_size(data), where)
    except OSError as error:
        text = f"the photo is missing ({error.strerror}); {manifest.path} names it as {image['file_name']}"
        ledger.findings.append(Finding("error", "missing-photo", where, text))
    except DataError as error:
        ledger.findings.append(Finding("error", "unreadable-photo", where, f"{error}; replace it"))
    ledger.findings += annotation_findings(image, annotations, names, manifest.path)
    ledger.findings += box_findings(image, annotations, names, manifest.path)
    ledger.labels += (
        (Where(str(manifest.path), int(a["id"]), "annotation"), names[a["category_id"]]) for a in annotations
    )
    ledger.things += coco_things(image, annotations, names, str(path), split)
