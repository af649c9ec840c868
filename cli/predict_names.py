"""Photos ─▶ the names of the files that are made of them in one folder; for `maskserve predict`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path


def file_names(photos: Sequence[Path], ending: str) -> dict[Path, str]:
    """Each photo's stem with the ending, with a number between where the name is given already.

    Names that a case-insensitive file system takes for one are one.
    """
    names: dict[Path, str] = {}
    given: set[str] = set()
    for photo in photos:
        names[photo] = next(name for name in _numbered(photo.stem, ending) if name.casefold() not in given)
        given.add(names[photo].casefold())
    return names


def _numbered(stem: str, ending: str) -> Iterator[str]:
    yield f"{stem}{ending}"
    yield from (f"{stem}_{number}{ending}" for number in count(2))
