"""Dataset folder or COCO file ▶ one labelme file a photo, all of them or none.

Polygons are written as they are, several of one object joined by a `group_id`; RLE masks become polygons (see
`imaging.outlines`); crowds are no objects and are left out. Photos stay where they are: the files name them relative
to themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from maskserve.imaging.outlines import mask_to_outlines
from maskserve.protos.errors import DataError
from maskserve.protos.types import MaskRle
from maskserve.training.datasets.atomic import landing
from maskserve.training.datasets.coco import manifest_files, read_coco
from maskserve.training.datasets.example import Example, Instance, Job
from maskserve.training.datasets.findings import Finding
from maskserve.training.datasets.from_coco import open_coco
from maskserve.training.datasets.geometry import Polygon
from maskserve.training.datasets.labelme_writer import file_names, labelme_json, shapes_of
from maskserve.training.datasets.sources import Source


@dataclass(frozen=True)
class Exported:
    """What an export made; `photos` and `shapes` are counts."""

    out_dir: Path
    photos: int
    shapes: int
    warnings: tuple[Finding, ...]


def export_labelme(
    dataset: Path,
    out_dir: Path,
    *,
    overwrite: bool = False,
    on_photo: Callable[[int, int], None] = lambda _done, _total: None,
) -> Exported:
    """Write `out_dir`/photo.json for every photo, in a folder for each split where there are several.

    Raises:
        DataError: when `dataset` holds no COCO file, a photo is missing or damaged, or a file is there already;
            nothing is written.
    """
    files = manifest_files(dataset)
    if not files:
        raise DataError(f"{dataset} is neither a dataset folder nor a COCO file; name what `data import` made.")
    jobs = [job for split, file in files.items() for job in _jobs(file, split if len(files) > 1 else "")]
    if not overwrite:
        _refuse_existing([out_dir / name for name, _ in jobs])
    shape_count, warnings = 0, list[Finding]()
    with landing(out_dir) as staged:
        for done, (name, job) in enumerate(jobs, 1):
            example, doubtful = job()
            shapes, crowds = _shapes(example)
            path = staged / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(labelme_json(shapes, example.image_path, (out_dir / name).parent, example.size))
            shape_count += len(shapes)
            warnings += doubtful + crowds
            on_photo(done, len(jobs))
    return Exported(out_dir, len(jobs), shape_count, tuple(warnings))


def _jobs(file: Path, folder: str) -> list[tuple[str, Job]]:
    """The file to write, relative to the output folder, and what reads its photo, for each photo."""
    names = file_names((Path(image["file_name"]) for image in read_coco(file)["images"]), ".json")
    jobs = open_coco(Source(file, None, "coco")).jobs
    return [(f"{folder}/{name}" if folder else name, job) for name, job in zip(names, jobs, strict=True)]


def _refuse_existing(paths: Sequence[Path]) -> None:
    there = [path for path in paths if path.exists()]
    if there:
        raise DataError(
            f"{there[0]} is there already{f', and so are {len(there) - 1} more' if there[1:] else ''}; "
            "choose another folder, or replace them with --overwrite."
        )


def _shapes(example: Example) -> tuple[list[dict[str, Any]], list[Finding]]:
    shapes: list[dict[str, Any]] = []
    crowds: list[Finding] = []
    for group_id, instance in enumerate(example.instances, 1):
        if instance.crowd:
            text = f"a crowd of {instance.label!r} is no single object and is left out; draw its members"
            crowds.append(Finding("warning", "crowd", example.where(instance), text))
        else:
            shapes += shapes_of(instance.label, _outlines(instance), group_id)
    return shapes, crowds


def _outlines(instance: Instance) -> Sequence[Polygon]:
    if not instance.rle:
        return instance.polygons
    height, width = instance.rle["size"]
    counts = instance.rle["counts"]
    if isinstance(counts, list):
        counts = coco_mask.frPyObjects(dict(instance.rle), height, width)["counts"].decode("ascii")
    return mask_to_outlines(MaskRle((height, width), counts))
