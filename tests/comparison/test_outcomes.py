"""Every instance and every answer has one outcome, and a find is COCO's own match."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskserve.comparison.outcomes import Outcome, confusion, outcomes
from maskserve.comparison.results import Confusion
from maskserve.training.evaluate import ground_truth, matched
from tests.comparison.answers import CATEGORIES, answer, label, write_manifest

BOX = (40.0, 40.0, 100.0, 80.0)
INSIDE = (40.0, 40.0, 100.0, 60.0)
"""IoU 0.75 with BOX."""
ELSEWHERE = (200.0, 150.0, 60.0, 60.0)
THIRD = (200.0, 40.0, 60.0, 60.0)
GIANT, RED = 7, 2


def of_photo(tmp_path: Path, labels: list[Any], answers: list[Any]) -> tuple[Outcome, dict[str, Confusion]]:
    manifest = write_manifest(tmp_path / "test.json", labels, [1])
    found = outcomes(matched(ground_truth(manifest, {1}), answers, "segm"), 0.5)
    return found[1], {entry.class_name: entry for entry in confusion("a", found.values(), CATEGORIES)}


def test_a_find_counts_once_for_the_instance_and_once_for_the_answer(tmp_path: Path):
    photo, classes = of_photo(tmp_path, [label(0, 1, GIANT, BOX)], [answer(1, GIANT, INSIDE, 0.9)])
    assert classes["giant panda"] == Confusion("a", "giant panda", 1, 1, 1, 0, 0, 0, 0, 0)
    assert photo.quality == pytest.approx(0.75)


def test_a_second_answer_for_the_same_instance_is_doubled(tmp_path: Path):
    answers = [answer(1, GIANT, BOX, 0.9), answer(1, GIANT, INSIDE, 0.8)]
    photo, classes = of_photo(tmp_path, [label(1, 1, GIANT, BOX)], answers)
    giant = classes["giant panda"]
    assert (giant.found, giant.doubled, giant.spurious) == (1, 1, 0)
    assert photo.quality == pytest.approx(1 / 1.5)


def test_an_answer_of_another_class_is_an_error_of_both_classes(tmp_path: Path):
    _, classes = of_photo(tmp_path, [label(1, 1, GIANT, BOX)], [answer(1, RED, BOX, 0.9)])
    assert (classes["giant panda"].wrong_class, classes["giant panda"].missed) == (1, 0)
    assert (classes["red panda"].wrong_class_answers, classes["red panda"].spurious) == (1, 0)


def test_the_right_class_wins_over_a_more_certain_wrong_one(tmp_path: Path):
    answers = [answer(1, RED, BOX, 0.99), answer(1, GIANT, INSIDE, 0.6)]
    _, classes = of_photo(tmp_path, [label(1, 1, GIANT, BOX)], answers)
    assert (classes["giant panda"].found, classes["giant panda"].wrong_class) == (1, 0)
    assert classes["red panda"].wrong_class_answers == 1


def test_each_instance_of_a_photo_has_its_own_outcome(tmp_path: Path):
    labels = [label(1, 1, GIANT, BOX), label(2, 1, GIANT, ELSEWHERE), label(3, 1, RED, THIRD)]
    labels.append(label(4, 1, RED, INSIDE))  # under answers that are right or doubled
    answers = [answer(1, GIANT, BOX, 0.9), answer(1, GIANT, INSIDE, 0.8), answer(1, GIANT, THIRD, 0.7)]
    _, classes = of_photo(tmp_path, labels, answers)
    giant, red = classes["giant panda"], classes["red panda"]
    assert (giant.found, giant.missed, giant.doubled, giant.wrong_class_answers) == (1, 1, 1, 1)
    assert (giant.spurious, red.wrong_class, red.missed) == (0, 1, 1)


def test_nothing_there_is_spurious_and_nothing_said_is_missed(tmp_path: Path):
    photo, classes = of_photo(tmp_path, [label(1, 1, GIANT, BOX)], [answer(1, GIANT, ELSEWHERE, 0.9)])
    assert (classes["giant panda"].missed, classes["giant panda"].spurious) == (1, 1)
    assert photo.quality == 0


@pytest.mark.parametrize(("score", "found"), [(0.5, 1), (0.499, 0)])
def test_an_answer_counts_from_the_threshold_on(tmp_path: Path, score: float, found: int):
    _, classes = of_photo(tmp_path, [label(1, 1, GIANT, BOX)], [answer(1, GIANT, BOX, score)])
    assert (classes["giant panda"].found, classes["giant panda"].answers) == (found, found)


def test_crowds_and_answers_on_them_are_left_out(tmp_path: Path):
    photo, classes = of_photo(tmp_path, [label(1, 1, GIANT, BOX, crowd=True)], [answer(1, GIANT, INSIDE, 0.9)])
    assert classes["giant panda"] == Confusion("a", "giant panda", 0, 0, 0, 0, 0, 0, 0, 0)
    assert photo.quality == 1


# a coarse grid makes equal boxes, equal scores and overlaps of every kind likely
boxes = st.tuples(*[st.integers(0, 3).map(lambda n: 40.0 * n)] * 2, *[st.sampled_from([40.0, 60.0, 80.0])] * 2)
classes = st.sampled_from([id_ for id_, _ in CATEGORIES])
photos = st.sampled_from([1, 2])
labelled = st.lists(st.tuples(photos, classes, boxes, st.booleans()), max_size=6)
answered = st.lists(st.tuples(photos, classes, boxes, st.sampled_from([0.3, 0.5, 0.7, 0.9])), max_size=12)


@settings(max_examples=150, deadline=None)
@given(labelled, answered)
def test_the_sums_hold_and_finds_are_cocos_true_positives(labels: list[Any], answers: list[Any]):
    with tempfile.TemporaryDirectory() as folder:
        entries = [label(n, image, class_, box, crowd) for n, (image, class_, box, crowd) in enumerate(labels)]
        manifest = write_manifest(Path(folder) / "test.json", entries, [1, 2])
        results = [answer(*fields) for fields in answers]
        truth = ground_truth(manifest, {1, 2})
        found = outcomes(matched(truth, results, "segm"), 0.5)
        above = matched(truth, [result for result in results if result["score"] >= 0.5], "segm")
    for (category_id, name), entry in zip(CATEGORIES, confusion("b", found.values(), CATEGORIES), strict=True):
        assert entry.class_name == name
        assert entry.labelled == sum(class_ == category_id and not crowd for _, class_, _, crowd in labels)
        assert entry.found + entry.wrong_class + entry.missed == entry.labelled
        assert entry.found + entry.wrong_class_answers + entry.doubled + entry.spurious == entry.answers
        assert min(entry.missed, entry.spurious) >= 0
        photos_of_class = [e for e in above.evalImgs if e and e["category_id"] == category_id and e["aRng"][1] > 1e9]
        photos_of_class = [e for e in photos_of_class if e["aRng"][0] == 0]
        right = [((e["dtMatches"][0] > 0) & ~e["dtIgnore"][0]).sum() for e in photos_of_class]
        assert entry.found == sum(right)
        assert entry.answers == sum((~e["dtIgnore"][0]).sum() for e in photos_of_class)
    assert all(0 <= photo.quality <= 1 for photo in found.values())
    assert all(np.count_nonzero(photo.found) == np.count_nonzero(photo.right) for photo in found.values())
