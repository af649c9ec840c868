"""One labelled photo, in the form that every label format is read into.

label file ▶ LabelFile: one job a photo ▶ Example: the photo, its size and objects; and what is doubtful about it
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskserve.protos.errors import DataError
from maskserve.training.datasets.findings import Finding, Noun, Where
from maskserve.training.datasets.geometry import Polygon
from maskserve.training.datasets.labels import IGNORED_LABEL, LabelTable
from maskserve.training.datasets.photos import check_pixels, photo_size


@dataclass(frozen=True)
class Instance:
    """One object: polygons (x, y) px of its visible parts, or the mask that a COCO file has as RLE.

    `places` are where it stands in its file: indices of shapes or regions, or an annotation's id.
    """

    label: str
    polygons: tuple[Polygon, ...]
    places: tuple[int, ...]
    rle: Mapping[str, Any] | None = None
    crowd: bool = False


@dataclass(frozen=True)
class Example:
    """One photo, read and checked; polygons lie inside it.

    Sizes are (height, width) after EXIF orientation. `digest` is the SHA-256 of the photo's file, `pixel_digest` that
    of its pixels, which a copy with other metadata has, too. `embedded` gives the photo's bytes when it has no file of
    its own but lies in the label file.
    """

    path: Path
    noun: Noun
    image_path: Path
    size: tuple[int, int]
    digest: str
    pixel_digest: str
    instances: tuple[Instance, ...]
    split: str | None
    embedded: Callable[[], bytes] | None = None

    @property
    def labels(self) -> frozenset[str]:
        return frozenset(instance.label for instance in self.instances if not instance.crowd)

    def relabelled(self, table: LabelTable) -> Example:
        """The same with the classes that its labels mean; ignored objects are gone."""
        renamed = (replace(instance, label=table.class_of(instance.label)) for instance in self.instances)
        return replace(self, instances=tuple(i for i in renamed if i.label != IGNORED_LABEL))

    def where(self, instance: Instance) -> Where:
        return Where(str(self.path), instance.places[0], self.noun)


Job = Callable[[], tuple[Example, list[Finding]]]
"""Reads one photo. Raises DataError when it cannot be used."""


@dataclass(frozen=True)
class LabelFile:
    """A label file, opened; `class_names` are the classes it declares, in its order, where it does."""

    jobs: Sequence[Job]
    class_names: tuple[str, ...] = ()


def names_a_file(name: object) -> bool:
    """Whether a file can be called so here: no text with a zero or half a letter ("\\ud800" in JSON) is a path."""
    try:
        return isinstance(name, str) and b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def read_photo(path: Path, label_file: Path) -> tuple[bytes, tuple[int, int]]:
    """A photo's bytes and its (height, width) after EXIF orientation.

    Raises:
        DataError: when it is damaged or no photo; names it and the file that needs it.
    """
    try:
        data = path.read_bytes()
        check_pixels(data)
        return data, photo_size(data)
    except (DataError, OSError) as error:
        raise DataError(f"{label_file}: its photo {path} cannot be used: {error}; replace it.") from None


def require_photos(paths: Sequence[Path], label_file: Path) -> None:
    """Raises DataError when photos that a file names are not there."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"{label_file}: {len(missing)} of its {len(paths)} photos are missing, the first is {missing[0]}; "
            "put them there, or take them out of the file."
        )
