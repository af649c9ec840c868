"""What there is, beside what is wrong with it: the photos and objects that a check has seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from maskserve.training.datasets.findings import Where


@dataclass(frozen=True)
class Photo:
    """A photo that could be read."""

    where: Where
    split: str
    """As the user's folders say, or "" where they do not."""
    size: tuple[int, int]
    """(height, width) px after EXIF orientation."""
    digest: str
    """SHA-256 of its pixels."""
    hashes: NDArray[np.uint64] = field(compare=False, repr=False)
    """(V, 4), see duplicates.picture_hashes."""


@dataclass(frozen=True)
class Thing:
    """One labelled object; crowds are none."""

    photo: str
    """The file that the finding of its photo would name."""
    split: str
    class_name: str
    box_px: tuple[float, float]
    """(height, width) of its box."""
    area_px: float
    photo_size: tuple[int, int]
    """(height, width) px that the labels are in."""


@dataclass(frozen=True)
class Survey:
    """All photos and objects of the paths that were checked."""

    photos: tuple[Photo, ...] = ()
    things: tuple[Thing, ...] = ()
    class_names: tuple[str, ...] = ()
    """Of the label table, the categories and the labels, also those without an object."""
    splits: tuple[str, ...] = ()
    labelled: Mapping[str, int] = field(default_factory=dict)
    """Split ─▶ photos named by its labels, readable or not."""

    def counts(self, split: str | None = None) -> dict[str, int]:
        """Class ─▶ objects, in one split or in all."""
        found = Counter(thing.class_name for thing in self.things if split in (None, thing.split))
        return {name: found[name] for name in self.class_names}


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Each once, in the order of first appearance."""
    return tuple(dict.fromkeys(names))
