"""Scores that are probabilities have no calibration error; too certain ones have the difference."""

from __future__ import annotations

import numpy as np
import pytest

from maskserve.comparison.average_precision import Matches
from maskserve.comparison.calibration import calibration


def matches(scores: list[float], right: list[bool], counts: list[bool] | None = None) -> Matches:
    """Of one photo; the same at every IoU threshold."""
    order = np.argsort(-np.array(scores))
    counted = np.array(counts or [True] * len(scores), bool)[order]
    return Matches(
        photos=np.zeros(len(scores), int),
        scores=np.array(scores)[order],
        right=np.tile(np.array(right, bool)[order] & counted, (10, 1)),
        counts=np.tile(counted, (10, 1)),
        labelled=np.ones(1, np.float32),
    )


def test_scores_that_are_probabilities_have_no_error():
    found = calibration("a", [matches([0.75] * 4, [True, True, True, False])])
    assert found.expected_error == pytest.approx(0)
    (only,) = found.bins
    assert (only.low, only.high, only.count, only.mean_score, only.precision) == (0.7, 0.8, 4, 0.75, 0.75)


def test_the_error_is_the_mean_of_the_bins_gaps_weighted_by_their_answers():
    found = calibration("b", [matches([0.95] * 3, [False] * 3), matches([0.25], [True])])
    assert found.expected_error == pytest.approx((3 * 0.95 + 1 * 0.75) / 4)
    assert [(entry.low, entry.count) for entry in found.bins] == [(0.2, 1), (0.9, 3)]


def test_a_score_of_1_is_in_the_last_bin():
    assert calibration("a", [matches([1.0], [True])]).bins[0].low == 0.9


def test_ignored_answers_are_left_out():
    found = calibration("a", [matches([0.5, 0.5], [True, False], counts=[True, False])])
    assert (found.bins[0].count, found.bins[0].precision) == (1, 1)


def test_an_arm_without_answers_has_no_bins_and_no_error():
    assert calibration("a", [matches([], [])]).bins == ()
    assert calibration("a", [matches([], [])]).expected_error == 0
