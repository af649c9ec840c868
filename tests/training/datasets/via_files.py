"""Writes VIA 2 files for tests: regions from scratch, or labelme files turned into VIA's form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.training.datasets.labelme_files import photo_bytes

Region = dict[str, Any]


def polygon(points: Sequence[Sequence[float]], **attributes: Any) -> Region:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return region({"name": "polygon", "all_points_x": xs, "all_points_y": ys}, **attributes)


def region(shape: dict[str, Any], **attributes: Any) -> Region:
    return {"shape_attributes": shape, "region_attributes": attributes}


def write_via(
    path: Path,
    photos: dict[str, list[Region]],
    *,
    project: bool = False,
    as_dict: bool = False,
    default_filepath: str = "",
    draw_photos: bool = True,
) -> Path:
    """The annotation export or the project file for photos (name ─▶ regions), and the photos beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {}
    for seed, (name, regions) in enumerate(photos.items()):
        file = path.parent / default_filepath / name
        if draw_photos:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(photo_bytes(seed=seed))
        size = file.stat().st_size if file.is_file() else -1
        listed: Any = {str(i): one for i, one in enumerate(regions)} if as_dict else regions
        entries[f"{name}{size}"] = {"filename": name, "size": size, "regions": listed, "file_attributes": {}}
    settings = {"ui": {}, "core": {"buffer_size": 18, "default_filepath": default_filepath}, "project": {"name": "x"}}
    whole = {"_via_settings": settings, "_via_img_metadata": entries, "_via_attributes": {"region": {}, "file": {}}}
    path.write_text(json.dumps(whole if project else entries))
    return path


def via_of_labelme(folder: Path, path: Path, **how: Any) -> Path:
    """The polygons of labelme files in `folder` as one VIA file in the photos' folder."""
    photos = {}
    for file in sorted(folder.glob("*.json")):
        content = json.loads(file.read_text())
        photos[content["imagePath"]] = [polygon(s["points"], label=s["label"]) for s in content["shapes"]]
    return write_via(path, photos, draw_photos=False, **how)
