"""Writes labelme 5 JSON, for `data export` and `predict`: outlines ▶ shapes ▶ one file beside or away from its photo.

Neither numpy nor shapely is needed here. Non-ASCII labels are escaped, because labelme reads files in the machine's
own encoding.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

VERSION = "5.2.1"
"""labelme's version whose fields these are; any labelme 5 or later reads them."""

Outline = Sequence[tuple[float, float]]


def shapes_of(label: str, outlines: Sequence[Outline], group_id: int, description: str = "") -> list[dict[str, Any]]:
    """The polygons of one object; more than one get the `group_id`, so that they stay one object."""
    return [
        {
            "label": label,
            "points": [[x, y] for x, y in outline],
            "group_id": group_id if len(outlines) > 1 else None,
            "description": description,
            "shape_type": "polygon",
            "flags": {},
        }
        for outline in outlines
    ]


def labelme_json(shapes: Iterable[Mapping[str, Any]], photo: Path, folder: Path, size: tuple[int, int]) -> bytes:
    """A labelme file that will lie in `folder` and names its photo relative to it; `size` is (height, width)."""
    content: dict[str, Any] = {
        "version": VERSION,
        "flags": {},
        "shapes": list(shapes),
        "imagePath": relative_name(photo, folder),
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }
    return json.dumps(content, indent=2).encode("ascii")


def relative_name(path: Path, folder: Path) -> str:
    """A path from a folder with forward slashes; absolute when it is on another drive."""
    path = path.resolve()
    try:
        return Path(os.path.relpath(path, folder.resolve())).as_posix()
    except ValueError:
        return path.as_posix()


def file_names(
    photos: Iterable[Path], ending: str, is_free: Callable[[Path, str], bool] = lambda _photo, _name: True
) -> list[str]:
    """A file name in one folder for each photo: its stem, as labelme expects it, with the ending, and a number between
    where the name is given already or is not free for it.

    Names that a case-insensitive file system takes for one are one.
    """
    given: set[str] = set()
    names = []
    for photo in photos:
        name, number = f"{photo.stem}{ending}", 1
        while name.casefold() in given or not is_free(photo, name):
            number += 1
            name = f"{photo.stem}_{number}{ending}"
        given.add(name.casefold())
        names.append(name)
    return names


def names_another_photo(labels: Path, photo: Path) -> bool:
    """Whether a labelme file is there and is of another photo; one that cannot be read is taken for this photo's."""
    try:
        named: str = json.loads(labels.read_bytes())["imagePath"].replace("\\", "/")  # labelme on Windows
        return (labels.parent / named).resolve() != photo.resolve()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
