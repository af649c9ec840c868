"""What a dataset consists of ▶ numbers ▶ one HTML page that needs no network.

Report of a check ▶ Card (also the JSON) ▶ templates/data_card.html.j2, with the contact sheet inside
"""

from __future__ import annotations

import base64
import hashlib
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskserve.imaging.encode import encode_picture
from maskserve.imaging.sheet import fitted
from maskserve.training.datasets.check import Report
from maskserve.training.datasets.coco import SPLITS, manifest_files
from maskserve.training.datasets.manifest import load_manifest
from maskserve.training.datasets.sources import find_labelme
from maskserve.training.datasets.survey import Survey, Thing, ordered

TEMPLATES = Path(__file__).parents[1] / "templates"
NO_SPLIT = "all"
"""Where the user's folders say nothing of splits."""
COCO_EDGES = (32**2, 96**2)
COCO_SIZES = ("small", "medium", "large")
"""Of objects, below, between and from these px² on in the photo as it is: COCO's evaluation."""
SHARE_EDGES = (0, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)
"""Of an object's share of its photo's area."""
COUNT_EDGES = (0, 1, 2, 3, 5, 9, 17, 33, inf)
"""Of objects on a photo; a bin holds its lower edge and not its upper one."""
COMMONEST_SIZES = 6
SHEET_PX = 1800


@dataclass(frozen=True)
class Bin:
    label: str
    count: int


@dataclass(frozen=True)
class Card:
    """A dataset in numbers; splits and classes in the dataset's order, crowds counted nowhere."""

    title: str
    source: str | None
    licence: str | None
    data_hash: str
    photos: Mapping[str, int]
    """Split ─▶ photos."""
    objects: Mapping[str, Mapping[str, int]]
    """Class ─▶ split ─▶ objects."""
    object_sizes: Mapping[str, Mapping[str, int]]
    """Class ─▶ small, medium, large ─▶ objects."""
    photo_sizes: tuple[Bin, ...]
    """The commonest sizes as "width×height", then all others together."""
    area_shares: tuple[Bin, ...]
    """Objects by their share of the photo's area, per cent."""
    objects_per_photo: tuple[Bin, ...]
    findings: Mapping[str, Mapping[str, Any]]
    """Code ─▶ level (the worse one), count, and the message of the first."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def data_card(path: Path, report: Report, *, title: str, source: str | None = None, licence: str | None = None) -> Card:
    """The card of what a check of `path` has seen.

    Raises:
        DataError: a manifest cannot be read.
    """
    survey = report.survey
    splits = [split for split in SPLITS if split in survey.labelled]
    splits += [split for split in survey.labelled if split not in splits]
    by_split = {split: survey.counts(split) for split in splits}
    by_class = {name: [t for t in survey.things if t.class_name == name] for name in survey.class_names}
    return Card(
        title=title,
        source=source,
        licence=licence,
        data_hash=_data_hash(path, survey),
        photos={split or NO_SPLIT: survey.labelled[split] for split in splits},
        objects={name: {split or NO_SPLIT: by_split[split][name] for split in splits} for name in by_class},
        object_sizes={name: _coco_sizes(things) for name, things in by_class.items()},
        photo_sizes=_photo_sizes(survey),
        area_shares=_area_shares(survey.things),
        objects_per_photo=_objects_per_photo(survey),
        findings=_findings(report),
    )


def _data_hash(path: Path, survey: Survey) -> str:
    """What a training of this data writes down, where it is an import or one COCO file; else a hash of all the COCO
    files, or of the labelme files and their photos' pixels."""
    hashes = ordered(load_manifest(file).data_hash for file in manifest_files(path).values())
    if len(hashes) == 1:
        return hashes[0]
    if not hashes:
        files = (hashlib.sha256(source.path.read_bytes()).hexdigest() for source in find_labelme([path]))
        hashes = (*sorted(files), *sorted(photo.digest for photo in survey.photos))
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _coco_sizes(things: Iterable[Thing]) -> dict[str, int]:
    counts = Counter(COCO_SIZES[bisect(COCO_EDGES, thing.area_px)] for thing in things)
    return {name: counts[name] for name in COCO_SIZES}


def _photo_sizes(survey: Survey) -> tuple[Bin, ...]:
    counts = Counter(f"{photo.size[1]}×{photo.size[0]}" for photo in survey.photos).most_common()
    common, rest = counts[:COMMONEST_SIZES], counts[COMMONEST_SIZES:]
    others = [(f"{len(rest)} other sizes", sum(count for _, count in rest))] if rest else []
    return tuple(Bin(label, count) for label, count in (*common, *others))


def _area_shares(things: Sequence[Thing]) -> tuple[Bin, ...]:
    shares = [min(1.0, thing.area_px / (thing.photo_size[0] * thing.photo_size[1])) for thing in things]
    counts, _ = np.histogram(shares, SHARE_EDGES)
    labels = [f"{low * 100:g}–{high * 100:g} %" for low, high in pairwise(SHARE_EDGES)]
    return tuple(Bin(label, int(count)) for label, count in zip(labels, counts, strict=True))


def _objects_per_photo(survey: Survey) -> tuple[Bin, ...]:
    counts = list(Counter((thing.split, thing.photo) for thing in survey.things).values())
    counts += [0] * (sum(survey.labelled.values()) - len(counts))
    bins = []
    for low, high in pairwise(COUNT_EDGES):
        label = f"{low}" if high == low + 1 else f"{low}+" if high == inf else f"{low}–{high - 1}"
        bins.append(Bin(label, sum(low <= count < high for count in counts)))
    return tuple(bins)


def _findings(report: Report) -> dict[str, dict[str, Any]]:
    told: dict[str, dict[str, Any]] = {}
    for finding in sorted(report.findings, key=lambda finding: finding.level):
        entry = told.setdefault(finding.code, {"level": finding.level, "count": 0, "first": finding.message})
        entry["count"] += 1
    return told


def card_page(card: Card, sheet: NDArray[np.uint8]) -> str:
    """The page as HTML; `sheet` is the contact sheet, RGB uint8 (H, W, 3)."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    smaller = fitted(sheet, SHEET_PX) if max(sheet.shape) > SHEET_PX else sheet
    picture = base64.b64encode(encode_picture(smaller, "jpeg")).decode()
    template = environment.get_template("data_card.html.j2")
    return template.render(card=card, splits=list(card.photos), picture=picture, shape=smaller.shape)
