"""What a repair has changed: one entry for each place, with the code of the finding that it mends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from maskserve.training.datasets.coco import SPLITS
from maskserve.training.datasets.findings import Where


@dataclass(frozen=True)
class Change:
    """`where` is a place in the original."""

    code: str
    where: Where
    message: str

    def as_json(self) -> dict[str, Any]:
        return {"code": self.code, **self.where.as_json(), "message": self.message}


@dataclass(frozen=True)
class SplitPhoto:
    """A photo that is named by `key`, its split and the hash of its pixels."""

    key: Any
    split: str
    digest: str


def twins(photos: Iterable[SplitPhoto]) -> dict[Any, SplitPhoto]:
    """The photos to take out because a later split (train, val, test) has them too ─▶ the one that stays."""
    by_digest: defaultdict[str, list[SplitPhoto]] = defaultdict(list)
    for photo in photos:
        by_digest[photo.digest].append(photo)
    surplus = {}
    for copies in by_digest.values():
        stays = max(copies, key=lambda photo: SPLITS.index(photo.split) if photo.split in SPLITS else -1)
        surplus.update({copy.key: stays for copy in copies if copy.split != stays.split})
    return surplus
