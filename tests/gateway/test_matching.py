"""Which instances of two answers are the same thing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskserve.gateway.matching import coverage_difference, match_instances
from maskserve.imaging.rle import encode_rle, rle_iou
from maskserve.protos.types import Coverage, Instance, ModelInfo, Segmentation

SIZE = (24, 32)


def box(x_min: int, y_min: int, x_max: int, y_max: int, name: str = "red panda", score: float = 0.9) -> Instance:
    """An instance whose mask fills its box."""
    mask = np.zeros(SIZE, bool)
    mask[y_min:y_max, x_min:x_max] = True
    corners = (float(x_min), float(y_min), float(x_max), float(y_max))
    return Instance(0, name, score, corners, int(mask.sum()), encode_rle(mask))


@st.composite
def instances(draw: st.DrawFn) -> list[Instance]:
    made = []
    for _ in range(draw(st.integers(0, 5))):
        x, y = draw(st.integers(0, 24)), draw(st.integers(0, 16))
        name = draw(st.sampled_from(["red panda", "giant panda"]))
        made.append(box(x, y, x + draw(st.integers(1, 8)), y + draw(st.integers(1, 8)), name))
    return made


def test_the_same_thing_matches_and_another_class_does_not():
    left = [box(0, 0, 8, 8), box(16, 8, 24, 16)]
    right = [box(16, 8, 24, 16, "giant panda"), box(0, 0, 8, 6)]
    found = match_instances(left, right, rle_iou)
    assert [(match.left, match.right, match.mask_iou) for match in found.matches] == [(0, 1, 0.75)]
    assert (found.only_left, found.only_right, found.mean_mask_iou) == ((1,), (0,), 0.75)


def test_the_best_overlap_is_taken_first():
    left = [box(0, 0, 10, 10), box(0, 0, 10, 9)]
    found = match_instances(left, [box(0, 0, 10, 9)], rle_iou)
    assert [(match.left, match.right) for match in found.matches] == [(1, 0)]


def test_nothing_found_on_both_sides_is_no_match_and_no_mean():
    found = match_instances([], [], rle_iou)
    assert (found.matches, found.mean_mask_iou) == ((), None)


@given(instances())
def test_an_answer_matches_itself_completely(one):
    found = match_instances(one, one, rle_iou)
    assert len(found.matches) == len(one)
    assert all(match.mask_iou == 1 for match in found.matches)


@given(instances(), instances())
def test_every_instance_is_matched_once_or_is_alone(left, right):
    found = match_instances(left, right, rle_iou)
    assert sorted([match.left for match in found.matches] + list(found.only_left)) == list(range(len(left)))
    assert sorted([match.right for match in found.matches] + list(found.only_right)) == list(range(len(right)))
    for match in found.matches:
        assert left[match.left].class_name == right[match.right].class_name
        assert 0.5 <= match.mask_iou <= 1


def test_coverage_difference_is_right_minus_left_and_counts_a_missing_class_as_zero():
    def answer(**by_class: float) -> Segmentation:
        return Segmentation(SIZE, (), Coverage(0.5, by_class), ModelInfo("m", "1", "resnet50"))

    assert coverage_difference(answer(a=0.5, b=0.25), answer(a=0.75, c=0.125)) == pytest.approx(
        {"a": 0.25, "b": -0.25, "c": 0.125}
    )
