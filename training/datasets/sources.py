"""Finds label files on disk, of whatever format, and the split that the user's folders and file names give them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from maskserve.protos.errors import DataError
from maskserve.training.datasets.coco import SPLITS, is_coco, read_json, split_files, stated_split
from maskserve.training.datasets.findings import Finding, Where
from maskserve.training.datasets.labelme import is_labelme
from maskserve.training.datasets.via import is_via

LabelFormat = Literal["labelme", "via", "coco", "unreadable"]
FORMATS: tuple[LabelFormat, ...] = ("labelme", "via", "coco")
"""Where a folder holds several, the first of them is imported: the others were most likely made from it."""
FOLDERS = {**{split: split for split in SPLITS}, "valid": "val"}
"""A folder's name ─▶ its split; Roboflow calls it `valid`."""
TITLES = {"labelme": "labelme", "via": "VIA", "coco": "COCO"}


@dataclass(frozen=True)
class Source:
    """A label file; `split` is None where the user's folders and names do not say."""

    path: Path
    split: str | None
    format: LabelFormat = "labelme"


def find_labels(paths: Sequence[Path]) -> tuple[list[Source], list[Finding]]:
    """The label files that are named or lie below the folders, sorted in each; other JSON files are passed over.

    In a folder with labels in several formats only one of them is taken, see `FORMATS`, and a finding says so. JSON
    that cannot be read counts as labelme, so that reading it says what is wrong; beside other formats it is a finding.

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
        DataError: a path is missing or has no labelme file.
    """
    labelled: dict[Path, Source] = {}
    for path, sources in _by_path(paths):
        found = {source.path.resolve(): source for source in sources if source.format == "labelme"}
        if not found:
            raise DataError(f"{path}: no labelme JSON files there; label photos with labelme and save beside them.")
        labelled |= found
    return list(labelled.values())


def _by_path(paths: Sequence[Path]) -> Iterator[tuple[Path, list[Source]]]:
    """Each path with the label files there."""
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist; name a folder or a file with labelme, COCO or VIA labels.")
    for path, split in zip(paths, _stated_splits(paths), strict=True):
        yield path, list(_told_apart(_in_folder(path, split) if path.is_dir() else _named(path, split)))


def _told_apart(found: Iterable[Source]) -> Iterator[Source]:
    """What cannot be read is a broken labelme file, unless all that can be read is of another format."""
    found = list(found)
    readable = {source.format for source in found} - {"unreadable"}
    for source in found:
        broken = source.format == "unreadable" and (not readable or "labelme" in readable)
        yield replace(source, format="labelme") if broken else source


def _stated_splits(paths: Sequence[Path]) -> list[str | None]:
    """Of each path, None for those that are to be dealt out.

    Names count where a training split and another one are named, or nothing but a training split.
    """
    named = [FOLDERS.get(path.name) if path.is_dir() else stated_split(path) for path in paths]
    splits = set(named) - {None}
    kept = "train" in splits and (len(splits) > 1 or splits == set(named))
    return named if kept else [None] * len(named)


def _named(file: Path, split: str | None) -> Iterator[Source]:
    kind = _format(file)
    if kind:
        yield Source(file, split, kind)


def _in_folder(folder: Path, split: str | None) -> Iterator[Source]:
    """Of COCO files only those with the splits' usual names, where there are such: COCO's own come with others.

    Hidden files and folders are not looked at: settings of editors, and what macOS puts beside a file ("._a.json").
    """
    usual = {file: name for name, file in split_files(folder).items()}
    for file in sorted(folder.rglob("*.json")):
        if is_hidden(file, folder):
            continue
        kind = _format(file)
        if kind == "coco" and "train" in usual.values():
            if file in usual:
                yield Source(file, usual[file], kind)
        elif kind:
            yield Source(file, split or _split_inside(folder, file), kind)


def _split_inside(folder: Path, file: Path) -> str | None:
    """The split of a file in a folder that has train/ and test/ or val/ in it."""
    if not (folder / "train").is_dir() or not any((folder / s).is_dir() for s in FOLDERS if s != "train"):
        return None
    return FOLDERS.get(file.relative_to(folder).parts[0])


def is_hidden(file: Path, folder: Path) -> bool:
    """Whether a name on the way from the folder to the file begins with a dot."""
    return any(name.startswith(".") for name in file.relative_to(folder).parts)


def _format(file: Path) -> LabelFormat | None:
    try:
        content = read_json(file)
    except DataError:
        return "unreadable"
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
    known = [source for source in others if source.format in FORMATS]
    if known:
        names = ", ".join(f"{source.path.relative_to(folder)} ({TITLES[source.format]})" for source in known[:3])
        text = f"labels in {TITLES[kind]}'s format are taken; left out: {names}{', …' if known[3:] else ''}"
        yield Finding(
            "warning", "other-format", Where(str(folder)), f"{text}; to take those, name the files themselves"
        )
    for source in others:
        if source.format not in FORMATS:
            text = "is not readable JSON and was left out; if it holds labels, save it again or name it itself"
            yield Finding("warning", "broken-file", Where(str(source.path)), text)
