"""AP of two arms and the paired bootstrap over photos of its difference.

    matches of an arm × how often each photo was drawn ─▶ ArmAp ┐
                                                                ├▶ rows: a, b, a − b, interval, share with a ahead
    matches of the other × the same draws ────────────▶ ArmAp ┘

The bootstrap (Efron and Tibshirani, 1993, ch. 13): photos are drawn with replacement, as many as there are, the same
for both arms; AP of both is taken anew from the drawn photos, and the middle 95 % of the differences is the interval.
A class that a resample has no instance of is left out of its mean over classes, as COCO does for the data itself; an
interval of such a class is over the resamples that have it. A class or size on fewer than LEAST_PHOTOS photos has no
interval: of one photo that would be a point, which leaves zero out whatever the arms are. Photos count as independent:
neighbouring frames of a film are not, and make intervals too narrow.

Shape shorthand: `A` AREAS, `C` classes, `N` photos, `R` resamples, `T` IoU thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from maskserve.comparison.average_precision import (
    AREAS,
    IOU_50,
    IOU_75,
    Area,
    Floats,
    Matches,
    Weights,
    average_precision,
)
from maskserve.comparison.findings import LEAST_PHOTOS
from maskserve.comparison.results import ALL_CLASSES, Ap, Row

Metric = Literal["AP", "AP50", "AP75"]
PLACES: dict[Metric, slice] = {
    "AP": slice(None),
    "AP50": slice(IOU_50, IOU_50 + 1),
    "AP75": slice(IOU_75, IOU_75 + 1),
}
"""The IoU thresholds that a metric is the mean of."""
INTERVAL = (2.5, 97.5)
"""Percentiles."""
TIE = 1e-9
"""AP points; sums in another order differ by rounding."""


@dataclass(frozen=True)
class ArmAp:
    """One arm's boxes or masks."""

    matches: list[list[Matches]]
    """By class, then by AREAS."""
    ap: Floats
    """(C, A, T, 1 + R) per cent, NaN without instances: of the photos as they are, then of the resamples."""

    @property
    def instances(self) -> NDArray[np.int64]:
        """(C, A) labelled instances."""
        return np.array([[sized.labelled.sum() for sized in by_area] for by_area in self.matches]).astype(np.int64)

    def photo_count(self, classes: slice, size: int) -> int:
        """Photos with such an instance."""
        return int(np.count_nonzero(np.any([by_area[size].labelled for by_area in self.matches[classes]], axis=0)))


def draw(photo_count: int, resamples: int, seed: int) -> Weights:
    """(N, 1 + R) how often each photo counts: once in the photos as they are, then as often as it was drawn."""
    drawn = np.random.default_rng(seed).multinomial(photo_count, np.full(photo_count, 1 / photo_count), size=resamples)
    return np.vstack([np.ones((1, photo_count)), drawn]).T.astype(np.float32, order="C")


def arm_ap(matches: list[list[Matches]], weights: Weights, on_class: Callable[[], None] = lambda: None) -> ArmAp:
    """AP of every class, size, IoU threshold and resample.

    Args:
        matches: by class, then by AREAS.
        weights: see `draw`.
        on_class: is called after each class.
    """
    ap = []
    for by_area in matches:
        ap.append([100 * average_precision(sized, weights) for sized in by_area])
        on_class()
    return ArmAp(matches, np.array(ap))


def rows(a: ArmAp, b: ArmAp, class_names: Sequence[str]) -> tuple[Row, ...]:
    """AP, AP50 and AP75 of everything; AP and AP50 by class; AP by size."""
    found = [_row(a, b, metric, ALL_CLASSES, slice(None)) for metric in PLACES]
    for index, name in enumerate(class_names):
        found += [_row(a, b, metric, name, slice(index, index + 1)) for metric in ("AP", "AP50")]
    return (*found, *(_row(a, b, "AP", ALL_CLASSES, slice(None), area) for area in AREAS[1:]))


def _row(a: ArmAp, b: ArmAp, metric: Metric, class_name: str, classes: slice, area: Area = "all") -> Row:
    size = AREAS.index(area)
    ap_a, ap_b = (_mean(arm.ap[classes, size, PLACES[metric]]) for arm in (a, b))
    difference, *resampled = ap_a - ap_b
    is_part = class_name != ALL_CLASSES or area != "all"
    too_few = is_part and a.photo_count(classes, size) < LEAST_PHOTOS
    low, high, p_a_better = (None, None, None) if too_few else _summary(np.array(resampled))
    return Row(
        metric=metric,
        class_name=class_name,
        area=area,
        instance_count=int(a.instances[classes, size].sum()),
        a=_known(ap_a[0]),
        b=_known(ap_b[0]),
        difference=_known(difference),
        low=low,
        high=high,
        p_a_better=p_a_better,
    )


def _mean(ap: Floats) -> Floats:
    """Over thresholds and the classes with instances: (C, T, 1 + R) ─▶ (1 + R,), NaN where no class has any."""
    by_class = ap.mean(axis=1)
    known = ~np.isnan(by_class)
    total = np.where(known, by_class, 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def _known(value: float) -> Ap:
    return None if np.isnan(value) else float(value)


def _summary(differences: Floats) -> tuple[Ap, Ap, float | None]:
    """Interval, and the share of resamples in which a is ahead; nothing where no resample has an instance."""
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return None, None, None
    low, high = np.percentile(differences, INTERVAL)
    ahead = np.where(np.abs(differences) < TIE, 0.5, differences > 0).mean()
    return float(low), float(high), float(ahead)
