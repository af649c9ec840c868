"""Labels with mistakes ▶ new files without those that are mechanical; the originals stay as they are.

labelme folder ▶ each file's shapes repaired ▶ labelme files of the same names in a new folder
dataset folder, COCO file ▶ each annotation repaired ▶ manifests of the same names in a new folder

Photos are not copied: the new files name the old ones. What is not mechanical is kept as it is, for a person.
docs/data-check.md says what is done about which finding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from maskserve.protos.errors import DataError
from maskserve.training.datasets.atomic import landing
from maskserve.training.datasets.changes import Change
from maskserve.training.datasets.coco import manifest_files
from maskserve.training.datasets.fix_coco import fix_manifests
from maskserve.training.datasets.fix_labelme import fix_labelme
from maskserve.training.datasets.labels import LabelTable


def fix(
    path: Path,
    out_dir: Path,
    labels: LabelTable | None = None,
    *,
    on_photo: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[Change, ...]:
    """Write the repaired labels of a labelme folder, a dataset folder or a COCO file into the new folder `out_dir`.

    Args:
        labels: merges and renames labels, and says what misspelt ones can mean; without it labels stay as they are.
        on_photo: called with (photos done, photos in all).

    Returns:
        What was changed, in the order of the files.

    Raises:
        DataError: there are no labels, or `out_dir` is not empty or mixes with `path`; nothing is written.
    """
    _keep_apart(path, out_dir)
    files = manifest_files(path)
    with landing(out_dir) as staged:
        if files:
            return tuple(fix_manifests(files, path, out_dir, staged, labels, on_photo))
        return tuple(fix_labelme(path, out_dir, staged, labels, on_photo))


def _keep_apart(path: Path, out_dir: Path) -> None:
    folder = (path if path.is_dir() else path.parent).resolve()
    target = out_dir.resolve()
    if target == folder or (path.is_dir() and (target.is_relative_to(folder) or folder.is_relative_to(target))):
        raise DataError(f"{out_dir} lies in {path} or around it; choose a folder beside it, the originals stay.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{out_dir} exists and is not empty; choose a new folder, nothing is overwritten.")
