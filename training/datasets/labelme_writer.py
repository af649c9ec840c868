"""Writes labelme 5 JSON, for `data export` and `predict`: outlines ▶ shapes ▶ one file beside or away from its photo.

Neither numpy nor shapely is needed here. Non-ASCII labels are escaped, because labelme reads files in the machine's
own encoding.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
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


def json_names(photos: Iterable[Path]) -> list[str]:
    """A file name for each photo's labels: its stem, as labelme expects it; photos of one stem get numbers."""
    taken: set[str] = set()
    names = []
    for photo in photos:
        number, name = 1, f"{photo.stem}.json"
        while name.casefold() in taken:
            number += 1
            name = f"{photo.stem}_{number}.json"
        taken.add(name.casefold())
        names.append(name)
    return names
