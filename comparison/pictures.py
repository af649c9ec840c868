"""Photos worth looking at: where the arms differ most, and the best and the worst of each; labels beside both answers.

each photo's quality ─▶ choose ─▶ photo scaled, labels | a | b drawn on it ─▶ JPEGs for the page
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from maskserve.comparison.results import ArmName, Photo, Statistics
from maskserve.imaging.encode import encode_picture
from maskserve.imaging.overlay import draw_overlay
from maskserve.imaging.sheet import fitted
from maskserve.protos.types import Coverage, ModelInfo, Segmentation
from maskserve.training.datasets.manifest import Manifest
from maskserve.training.datasets.samples import masks_by_image, to_segmentation
from maskserve.training.evaluate import category_ids
from maskserve.training.loader import Record, read_photo

Results = Sequence[Mapping[str, Any]]
SIDE_PX = 480
JPEG_QUALITY = 80
DIFFERING = 6
EXTREMES = 2
"""Best and worst photos of each arm."""


@dataclass(frozen=True)
class Panel:
    """One drawing of a photo."""

    who: Literal["labels", "a", "b"]
    jpeg: bytes
    height: int
    width: int
    text: str
    """What is in it, in words."""


@dataclass(frozen=True)
class Shown:
    photo: Photo
    panels: tuple[Panel, ...]
    """Labels, a, b; empty when an earlier gallery has the photo."""


@dataclass(frozen=True)
class Gallery:
    title: str
    photos: tuple[Shown, ...]


def choose(photos: Sequence[Photo], labels: Mapping[ArmName, str]) -> list[tuple[str, list[Photo]]]:
    """(title, photos) of each gallery; a photo may be in several."""
    differing = sorted((photo for photo in photos if photo.a != photo.b), key=lambda photo: -abs(photo.a - photo.b))
    chosen = [("Where the arms differ most", differing[:DIFFERING])]
    for name, label in labels.items():
        ranked = sorted(photos, key=lambda photo: -float(getattr(photo, name)))
        chosen.append((f"Best of {label}", ranked[:EXTREMES]))
        chosen.append((f"Worst of {label}", ranked[::-1][:EXTREMES]))
    return [(title, some) for title, some in chosen if some]


def draw_galleries(
    manifest: Manifest,
    records: Sequence[Record],
    results: Mapping[ArmName, Results],
    statistics: Statistics,
    labels: Mapping[ArmName, str],
) -> list[Gallery]:
    """The galleries of a page.

    Args:
        records: of `dataset_dicts`.
        results: COCO results of each arm; drawn from the statistics' score threshold on.
    """
    drawer = _Drawer(manifest, records, results, statistics.score_threshold)
    drawn: set[Any] = set()
    galleries = []
    for title, photos in choose(statistics.photos, labels):
        shown = []
        for photo in photos:
            shown.append(Shown(photo, () if photo.image_id in drawn else drawer.panels(photo.image_id)))
            drawn.add(photo.image_id)
        galleries.append(Gallery(title, tuple(shown)))
    return galleries


class _Drawer:
    """Labels and answers by photo, and how they are drawn."""

    def __init__(
        self, manifest: Manifest, records: Sequence[Record], results: Mapping[ArmName, Results], threshold: float
    ) -> None:
        self._names = dict(zip(category_ids(manifest), manifest.class_names, strict=True))
        self._class_ids = {name: index for index, name in enumerate(manifest.class_names)}
        self._records = {record["image_id"]: record for record in records}
        self._labels = masks_by_image(manifest)
        self._answers: dict[ArmName, defaultdict[Any, list[Mapping[str, Any]]]] = {}
        for arm, found in results.items():
            self._answers[arm] = defaultdict(list)
            for result in sorted(found, key=lambda result: -result["score"]):
                if result["score"] >= threshold:
                    self._answers[arm][result["image_id"]].append(result)

    def panels(self, image_id: Any) -> tuple[Panel, ...]:
        photo = read_photo(self._records[image_id])
        small = fitted(photo, SIDE_PX)
        size, shown = photo.shape[:2], small.shape[:2]
        labels = to_segmentation(self._labels[image_id], size, shown, self._class_ids)
        panels = [_panel("labels", small, labels)]
        for arm, answers in self._answers.items():
            panels.append(_panel(arm, small, self._answer(answers[image_id], size, shown)))
        return tuple(panels)

    def _answer(self, results: Results, size: tuple[int, int], shown: tuple[int, int]) -> Segmentation:
        found = [
            replace(instance, score=float(result["score"]))
            for result in results
            for instance in to_segmentation(
                [(self._names[result["category_id"]], result["segmentation"])], size, shown, self._class_ids
            ).instances
        ]
        return Segmentation(shown, tuple(found), Coverage(), ModelInfo("", "", ""))


def _panel(who: Literal["labels", "a", "b"], small: NDArray[np.uint8], segmentation: Segmentation) -> Panel:
    drawn = draw_overlay(small, segmentation, legend=False, scores=who != "labels")
    jpeg = encode_picture(drawn, "jpeg", quality=JPEG_QUALITY)
    return Panel(who, jpeg, drawn.shape[0], drawn.shape[1], in_words(segmentation, scores=who != "labels"))


def in_words(segmentation: Segmentation, *, scores: bool) -> str:
    """ "2 cat, 1 dog", or "cat 98 %, dog 51 %"."""
    if not segmentation.instances:
        return "nothing"
    if scores:
        return ", ".join(f"{one.class_name} {one.score:.0%}" for one in segmentation.instances)
    counts = Counter(one.class_name for one in segmentation.instances)
    return ", ".join(f"{count} {name}" for name, count in counts.items())
