"""How far an arm's scores can be taken for probabilities: matches ─▶ ten bins of scores ─▶ expected error.

An answer is right when COCOeval matches it with an instance of its class at mask IoU ≥ 0.5; answers that COCO ignores
(on crowds) are left out. Every score counts, also those below the threshold that confusion and photos look at.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskserve.comparison.average_precision import IOU_50, Matches
from maskserve.comparison.results import ArmName, Bin, Calibration

BINS = 10


def calibration(arm: ArmName, matches: Sequence[Matches]) -> Calibration:
    """Reliability of the answers of all classes: bins [0, 0.1), [0.1, 0.2), …, [0.9, 1]; those without answers are
    left out, and the expected error of an arm without answers is 0.

    Args:
        matches: of masks of all sizes, one for each class.
    """
    scores = np.concatenate([m.scores[m.counts[IOU_50]] for m in matches])
    right = np.concatenate([m.right[IOU_50][m.counts[IOU_50]] for m in matches])
    places = np.minimum((scores * BINS).astype(int), BINS - 1)
    bins = tuple(_bin(place, scores[places == place], right[places == place]) for place in np.unique(places))
    error = sum(b.count * abs(b.precision - b.mean_score) for b in bins) / max(len(scores), 1)
    return Calibration(arm, bins, float(error))


def _bin(place: int, scores: np.ndarray, right: np.ndarray) -> Bin:
    return Bin(
        low=float(place) / BINS,
        high=float(place + 1) / BINS,
        count=len(scores),
        mean_score=float(scores.mean()),
        precision=float(right.mean()),
    )
