"""Photos ─▶ the names of the files that are made of them in one folder; for `maskserve predict`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path


def file_names(
    photos: Sequence[Path], ending: str, is_free: Callable[[Path, str], bool] = lambda _photo, _name: True
) -> dict[Path, str]:
    """Each photo's stem with the ending, with a number between where the name is given already or is not free for it.

    Names that a case-insensitive file system takes for one are one.
    """
    names: dict[Path, str] = {}
    given: set[str] = set()
    for photo in photos:
        names[photo] = next(
            name for name in _numbered(photo.stem, ending) if name.casefold() not in given and is_free(photo, name)
        )
        given.add(names[photo].casefold())
    return names


def is_of_another_photo(labels: Path, photo: Path) -> bool:
    """Whether a labelme file is there and names another photo; one that cannot be read is taken for this photo's."""
    try:
        named: str = json.loads(labels.read_bytes())["imagePath"].replace("\\", "/")  # labelme on Windows
        return (labels.parent / named).resolve() != photo.resolve()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _numbered(stem: str, ending: str) -> Iterator[str]:
    yield f"{stem}{ending}"
    yield from (f"{stem}_{number}{ending}" for number in count(2))
