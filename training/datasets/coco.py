"""COCO instance files on disk: which file is which split's, what is in it, and where its photos are."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from maskserve.protos.errors import DataError
from maskserve.training.datasets.coco_entries import check_entries
from maskserve.training.datasets.labelme import is_labelme

SPLITS = ("train", "val", "test")
_SPLIT_NAME = re.compile(r"(?:instances_)?(train|val|test)\d*")


def split_files(folder: Path) -> dict[str, Path]:
    """Split ─▶ manifest in a folder, by the usual names: `train.json`, `instances_train2017.json` (also in
    `annotations/`), `train/_annotations.coco.json`; labelme files of such names are passed over."""
    found: dict[str, Path] = {}
    for split in SPLITS:
        patterns = [f"{split}.json", f"instances_{split}*.json", f"annotations/instances_{split}*.json"]
        patterns += [f"{name}/_annotations.coco.json" for name in ((split, "valid") if split == "val" else (split,))]
        for pattern in patterns:
            files = [file for file in sorted(folder.glob(pattern)) if not _is_labelme(file)]
            if files:
                found[split] = files[0]
                break
    return found


def _is_labelme(path: Path) -> bool:
    try:
        return is_labelme(read_json(path))
    except DataError:
        return False


def manifest_files(path: Path) -> dict[str, Path]:
    """Split ─▶ manifest for a dataset folder or one COCO file; nothing for what holds labelme files.

    A file's split is read off its name, see `stated_split`, else it is the name itself.
    """
    if path.is_dir():
        return split_files(path)
    if not path.is_file() or _is_labelme(path):
        return {}
    return {stated_split(path) or path.stem.removeprefix("instances_"): path}


def stated_split(path: Path) -> str | None:
    """The split in the name of a COCO file: `test.json`, `instances_val2017.json`; not `trainval.json`."""
    named = _SPLIT_NAME.fullmatch(path.stem)
    return named[1] if named else None


def is_coco(content: object) -> bool:
    keys = ("images", "annotations", "categories")
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in keys)


def image_root(coco: dict[str, Any], path: Path) -> Path:
    """The manifest's folder, or where COCO's own layout has the photos: `../train2017` or `../images/train2017`.

    That is where the first photo lies that is there at all.
    """
    names, split = [image["file_name"] for image in coco["images"]], path.stem.removeprefix("instances_")
    above = path.parent.parent
    places = [path.parent, path.parent / "images", above / split, above / "images" / split, above / "images", above]
    return next((place for name in names for place in places if (place / name).is_file()), path.parent)


def read_coco(path: Path) -> dict[str, Any]:
    """The file's content, checked as far as code relies on it; shared between callers, so not to be changed.

    Raises:
        DataError: see `load_manifest`.
    """
    return _checked(path, *_stamp(path))


@lru_cache(maxsize=4)
def _checked(path: Path, _mtime_ns: int, _size_bytes: int) -> dict[str, Any]:
    coco = read_json(path)
    if is_labelme(coco):
        raise DataError(f"{path} is a labelme file; run `maskserve data import` on its folder first.")
    if not isinstance(coco, dict):
        raise DataError(f"{path} is not a COCO instance file: it is a {type(coco).__name__}, not an object.")
    for key in ("images", "annotations", "categories"):
        if not isinstance(coco.get(key), list) or (key != "annotations" and not coco[key]):
            raise DataError(f"{path} is not a COCO instance file: it has no list of {key!r}.")
    check_entries(path, coco)
    _settle(coco)
    return coco


def _settle(coco: dict[str, Any]) -> None:
    """Makes one of what has several spellings: numbers may be texts, names may be numbers, paths of Windows."""
    for image in coco["images"]:
        image["file_name"] = image["file_name"].replace("\\", "/")
        image |= {side: int(image[side]) for side in ("height", "width")}
    for category in coco["categories"]:
        category |= {"id": int(category["id"]), "name": str(category["name"])}
    for annotation in coco["annotations"]:
        annotation["category_id"] = int(annotation["category_id"])
        if "iscrowd" in annotation:
            annotation["iscrowd"] = int(annotation["iscrowd"])


def read_json(path: Path) -> Any:
    """A file's content, shared between callers, so not to be changed. Raises DataError when there is none."""
    return _parsed(path, *_stamp(path))


def _stamp(path: Path) -> tuple[int, int]:
    """When a file was changed, ns, and its size in bytes."""
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name a COCO manifest that exists.") from None
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=4)
def _parsed(path: Path, _mtime_ns: int, _size_bytes: int) -> Any:
    """Kept for a moment, as one command asks for a file several times and COCO's own take seconds to parse."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON: {error}. Make it again or fix the file.") from None
