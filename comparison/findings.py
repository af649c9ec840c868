"""What the numbers of a comparison amount to: which arm is ahead in accuracy and in speed, if that can be said.

    Statistics ─▶ Accuracy: unlabelled | useless | same | ahead | open
    Cost       ─▶ Speed: one arm is faster, or neither

Differences are turned round so that they are positive for the arm that is ahead in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from maskserve.comparison.results import ALL_CLASSES, ArmCost, ArmName, Cost, Row, Statistics
from maskserve.comparison.sample_size import photos_for, standard_error

SAME_AP = 1.0
"""AP points: an interval within ± this is practically the same."""
SAME_SPEED = 1.05
"""A ratio whose interval is nearer to 1 than this is practically the same."""
USELESS_AP50 = 5.0
"""Per cent; when both arms stay below, neither finds what is labelled."""
LEAST_PHOTOS = 5
"""With fewer, a bootstrap knows nothing of the photos that were not taken."""
FEW_PHOTOS = 20
"""With fewer, percentile intervals are known to be too narrow."""
LEAST_PAIRS = 5
"""Latencies of fewer lie too often on one side by chance: an arm would be faster than itself."""
LEAST_RESAMPLES = 100
"""The ends of an interval are each the fortieth part of them; and of fewer, none may have a labelled photo."""

OTHER: dict[ArmName, ArmName] = {"a": "b", "b": "a"}


@dataclass(frozen=True)
class Gap:
    """A difference, seen from the arm that is ahead in it."""

    ahead: ArmName
    size: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether its interval leaves zero out."""
        return self.low > 0

    @property
    def error(self) -> float:
        """Its standard error."""
        return standard_error(self.size, self.low, self.high)


@dataclass(frozen=True)
class Accuracy:
    case: Literal["unlabelled", "useless", "same", "ahead", "open"]
    gap: Gap | None
    """Of mask AP over all classes; None when nothing is labelled."""
    photos_needed: int | None
    """Only of the case `open`."""


@dataclass(frozen=True)
class Speed:
    """How many times the faster arm is faster; `faster` None: no difference that could be measured or matters."""

    faster: ArmName | None
    ratio: float
    low: float
    high: float


def gap(row: Row) -> Gap | None:
    """None for a row without an interval."""
    if row.difference is None or row.low is None or row.high is None:
        return None
    if row.difference < 0:
        return Gap("b", -row.difference, -row.high, -row.low)
    return Gap("a", row.difference, row.low, row.high)


def accuracy(statistics: Statistics) -> Accuracy:
    """By mask AP over all classes."""
    found = gap(all_classes(statistics, "AP"))
    if found is None:
        return Accuracy("unlabelled", None, None)
    if all((ap50 or 0) < USELESS_AP50 for ap50 in _ap50(statistics)):
        return Accuracy("useless", found, None)
    if labelled_photos(statistics) < LEAST_PHOTOS:
        return Accuracy("open", found, FEW_PHOTOS)
    if max(-found.low, found.high) <= SAME_AP:
        return Accuracy("same", found, None)
    if found.is_clear:
        return Accuracy("ahead", found, None)
    return Accuracy("open", found, photos_for(found.size, found.error, statistics.image_count))


def speed(cost: Cost) -> Speed:
    """By the ratio of latencies."""
    ratio, low, high = cost.speed_ratio, cost.speed_ratio_low, cost.speed_ratio_high
    ahead: ArmName = "b"
    if ratio < 1:
        ahead, ratio, low, high = "a", 1 / ratio, 1 / high, 1 / low
    matters = low > 1 and high > SAME_SPEED
    return Speed(ahead if matters else None, ratio, low, high)


def labelled_photos(statistics: Statistics) -> int:
    """What an interval of AP rests on, however many photos without a label there are beside them."""
    return sum(photo.instance_count > 0 for photo in statistics.photos)


def all_classes(statistics: Statistics, metric: str) -> Row:
    """The row of masks of all classes and sizes."""
    return next(r for r in statistics.mask.rows if (r.metric, r.class_name, r.area) == (metric, ALL_CLASSES, "all"))


def class_gaps(statistics: Statistics) -> dict[str, Gap]:
    """Mask AP by class, where there is an interval; nothing for a single class, as it would repeat the whole."""
    rows = [r for r in statistics.mask.rows if r.metric == "AP" and r.class_name != ALL_CLASSES and r.area == "all"]
    found = {row.class_name: gap(row) for row in rows if row.difference is not None}
    return {name: value for name, value in found.items() if value is not None} if len(found) > 1 else {}


def lighter(cost: Cost, arm: ArmName) -> list[str]:
    """What speaks for an arm besides accuracy and speed: its size, its memory."""
    this, that = arm_cost(cost, arm), arm_cost(cost, OTHER[arm])
    fields = {"size": (this.archive_bytes, that.archive_bytes), "memory": (this.memory_bytes, that.memory_bytes)}
    return [name for name, (ours, theirs) in fields.items() if ours * SAME_SPEED < theirs]


def arm_cost(cost: Cost, arm: ArmName) -> ArmCost:
    return cost.a if arm == "a" else cost.b


def _ap50(statistics: Statistics) -> tuple[float | None, float | None]:
    row = all_classes(statistics, "AP50")
    return row.a, row.b
