"""Finds labelled photos on disk: labelme files below folders, and the split that the user's folders give them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskserve.protos.errors import DataError
from maskserve.training.datasets.coco import SPLITS
from maskserve.training.datasets.labelme import is_labelme


@dataclass(frozen=True)
class Source:
    """A labelme file; `split` is None where the user's folders do not say."""

    path: Path
    split: str | None


def find_labelme(paths: Sequence[Path]) -> list[Source]:
    """The labelme files that are named or lie below the folders, sorted in each; other JSON files are passed over.

    A broken JSON counts as a labelme file, so that reading it says what is wrong.

    Raises:
        DataError: a path is missing, or there is no labelme file at all.
    """
    named = all(p.name in SPLITS for p in paths) and any(p.name == "train" for p in paths)
    sources: dict[Path, Source] = {}
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist; name the folder with your labelme JSON files.")
        for file in [path] if path.is_file() else sorted(path.rglob("*.json")):
            split = path.name if named else _split_inside(path, file)
            if _may_be_labelme(file):
                sources.setdefault(file.resolve(), Source(file, split))
    if not sources:
        places = ", ".join(map(str, paths))
        raise DataError(f"{places}: no labelme JSON files there; label photos with labelme and save beside them.")
    return list(sources.values())


def _split_inside(folder: Path, file: Path) -> str | None:
    """The split of a file in a folder that has train/ and test/ or val/ in it."""
    if folder == file or not (folder / "train").is_dir() or not any((folder / s).is_dir() for s in SPLITS[1:]):
        return None
    top = file.relative_to(folder).parts[0]
    return top if top in SPLITS else None


def _may_be_labelme(file: Path) -> bool:
    try:
        return is_labelme(json.loads(file.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return True
