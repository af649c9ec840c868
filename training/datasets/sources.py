"""Finds label files on disk, of whatever format, and the split that the user's folders and file names give them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from maskserve.protos.errors import DataError
from maskserve.training.datasets.coco import SPLITS, is_coco, read_json, split_files, stated_split
from maskserve.training.datasets.findings import Finding, Where
from maskserve.training.datasets.labelme import is_labelme
from maskserve.training.datasets.via import is_via

LabelFormat = Literal["labelme", "via", "coco"]
FORMATS: tuple[LabelFormat, ...] = ("labelme", "via", "coco")
"""Where a folder holds several, the first of them is imported: the others were most likely made from it."""
TITLES = {"labelme": "labelme", "via": "VIA", "coco": "COCO"}


@dataclass(frozen=True)
class Source:
    """A label file; `split` is None where the user's folders and names do not say."""

    path: Path
    split: str | None
    format: LabelFormat = "labelme"


def find_labels(paths: Sequence[Path]) -> tuple[list[Source], list[Finding]]:
    """The label files that are named or lie below the folders, sorted in each; other JSON files are passed over.

    In a folder with labels in several formats only one of them is taken, see `FORMATS`, and a finding says so.

    Raises:
        DataError: a path is missing or has no labels.
    """
    sources: dict[Path, Source] = {}
    left_out: list[Finding] = []
    for path, found in _by_path(paths):
        kinds = [kind for kind in FORMATS if any(source.format == kind for source in found)]
        if not kinds:
            raise DataError(
                f"{path}: no labels there in a format that is known (labelme, COCO instances, VIA); "
                "label photos with labelme and save beside them."
            )
        sources.update((source.path.resolve(), source) for source in found if source.format == kinds[0])
        others = [source for source in found if source.format != kinds[0] and not is_ours(source.path)]
        left_out += _left_out(path, kinds[0], others)
    return list(sources.values()), left_out


def find_labelme(paths: Sequence[Path]) -> list[Source]:
    """As `find_labels`, labelme files alone.

    Raises:
        DataError: a path is missing, or there is no labelme file at all.
    """
    found = (source for _, sources in _by_path(paths) for source in sources if source.format == "labelme")
    labelled = {source.path.resolve(): source for source in found}
    if not labelled:
        places = ", ".join(map(str, paths))
        raise DataError(f"{places}: no labelme JSON files there; label photos with labelme and save beside them.")
    return list(labelled.values())


def _by_path(paths: Sequence[Path]) -> Iterator[tuple[Path, list[Source]]]:
    """Each path with the label files there."""
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist; name a folder or a file with labelme, COCO or VIA labels.")
    for path, split in zip(paths, _stated_splits(paths), strict=True):
        yield path, list(_in_folder(path, split) if path.is_dir() else _named(path, split))


def _stated_splits(paths: Sequence[Path]) -> list[str | None]:
    """Of each path, None for those that are to be dealt out.

    Names count where a training split and another one are named, or nothing but a training split.
    """
    named = [path.name if path.is_dir() else stated_split(path) for path in paths]
    splits = {name for name in named if name in SPLITS}
    kept = "train" in splits and (len(splits) > 1 or splits == set(named))
    return [name if kept and name in SPLITS else None for name in named]


def _named(file: Path, split: str | None) -> Iterator[Source]:
    kind = _format(file)
    if kind:
        yield Source(file, split, kind)


def _in_folder(folder: Path, split: str | None) -> Iterator[Source]:
    """Of COCO files only those with the splits' usual names, where there are such: COCO's own come with others."""
    usual = {file: name for name, file in split_files(folder).items()}
    for file in sorted(folder.rglob("*.json")):
        kind = _format(file)
        if kind == "coco" and "train" in usual.values():
            if file in usual:
                yield Source(file, usual[file], kind)
        elif kind:
            yield Source(file, split or _split_inside(folder, file), kind)


def _split_inside(folder: Path, file: Path) -> str | None:
    """The split of a file in a folder that has train/ and test/ or val/ in it."""
    if not (folder / "train").is_dir() or not any((folder / s).is_dir() for s in SPLITS[1:]):
        return None
    top = file.relative_to(folder).parts[0]
    return top if top in SPLITS else None


def _format(file: Path) -> LabelFormat | None:
    """A file's format; a broken JSON counts as labelme, so that reading it says what is wrong."""
    try:
        content = read_json(file)
    except DataError:
        return "labelme"
    if is_labelme(content):
        return "labelme"
    return "via" if is_via(content) else "coco" if is_coco(content) else None


def is_ours(file: Path) -> bool:
    """Whether it is a manifest that an import made."""
    try:
        content = read_json(file)
    except DataError:
        return False
    info = content.get("info") if is_coco(content) else None
    return isinstance(info, dict) and "maskserve" in info


def _left_out(folder: Path, kind: LabelFormat, others: Sequence[Source]) -> Iterator[Finding]:
    if others:
        names = ", ".join(f"{source.path.relative_to(folder)} ({TITLES[source.format]})" for source in others[:3])
        text = f"labels in {TITLES[kind]}'s format are taken; left out: {names}{', …' if others[3:] else ''}"
        yield Finding(
            "warning", "other-format", Where(str(folder)), f"{text}; to take those, name the files themselves"
        )
