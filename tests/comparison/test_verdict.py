"""The verdict names who is ahead in what, with the numbers of the statistics, and says so when nobody can tell."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from maskserve.comparison.results import (
    ALL_CLASSES,
    ARM_NAMES,
    ArmCost,
    Confusion,
    Cost,
    Kind,
    Photo,
    Row,
    Served,
    ServedArm,
    Statistics,
)
from maskserve.comparison.sample_size import detectable, photos_for, standard_error
from maskserve.comparison.verdict import decide

LABELS = {"a": "ResNet-50", "b": "MobileNetV2"}
CLEAR, MIRRORED = (4.1, 1.2, 7.3), (-4.1, -7.3, -1.2)
SAME, OPEN, TINY, EXACT = (0.2, -0.5, 0.8), (1.2, -2.1, 4.6), (0.02, -3.0, 3.0), (0.0, 0.0, 0.0)
B_FASTER, A_FASTER = (2.9, 2.8, 3.1), (0.5, 0.48, 0.52)
NO_FASTER, HARDLY_FASTER = (1.1, 0.9, 1.3), (1.02, 1.01, 1.03)
Numbers = tuple[float, float, float]


def row(metric: Any, class_name: str, numbers: Numbers | None, a: float = 50.0) -> Row:
    if numbers is None:
        return Row(metric, class_name, "all", 0, None, None, None, None, None, None)
    difference, low, high = numbers
    return Row(metric, class_name, "all", 70, a, a - difference, difference, low, high, 0.5 + difference / 20)


def statistics(
    numbers: Numbers | None,
    *,
    photos: int = 120,
    empty: int = 0,
    classes: dict[str, Numbers | None] | None = None,
    ap50: float = 70.0,
) -> Statistics:
    """With these differences in mask AP, over all classes and by class; `empty` photos have no label."""
    by_class = [row("AP", name, of_class) for name, of_class in (classes or {}).items()]
    all_rows = [row("AP", ALL_CLASSES, numbers), row("AP50", ALL_CLASSES, numbers, ap50)]
    kind = Kind((*all_rows, *by_class), ())
    return Statistics(
        split="test",
        data="test.json",
        data_hash="0",
        image_count=photos + empty,
        instances={},
        score_threshold=0.5,
        resamples=2000,
        seed=0,
        box=kind,
        mask=kind,
        confusion=tuple(Confusion(arm, "panda", 70, 80, 60, 4, 6, 5, 8, 7) for arm in ARM_NAMES),
        calibration=(),
        photos=tuple(Photo(n, f"{n}.jpg", int(n < photos), 1.0, 1.0) for n in range(photos + empty)),
    )


def cost(ratio: Numbers = B_FASTER, *, archives: tuple[int, int] = (170_000_000, 18_000_000)) -> Cost:
    a, b = (
        ArmCost(44_000_000, 120_000_000_000, (480, 640), size, size, 1_000_000_000, (100.0,), 100.0, 130.0)
        for size in archives
    )
    return Cost(a, b, *ratio, "a machine")


# numbers, ratio ─▶ the sentence, whether it is decided
CASES = {
    "the faster arm is less accurate": (
        CLEAR,
        B_FASTER,
        "MobileNetV2 is 2.9× faster and loses 4.1 [1.2, 7.3] mask AP points.",
        True,
    ),
    "the same with the arms changed over": (
        MIRRORED,
        A_FASTER,
        "ResNet-50 is 2.0× faster and loses 4.1 [1.2, 7.3] mask AP points.",
        True,
    ),
    "one arm has everything but size": (
        CLEAR,
        A_FASTER,
        "ResNet-50 is both more accurate, by 4.1 [1.2, 7.3] mask AP points, and 2.0× faster: nothing speaks for "
        "MobileNetV2 but its size.",
        True,
    ),
    "one arm has everything": (
        MIRRORED,
        B_FASTER,
        "MobileNetV2 is both more accurate, by 4.1 [1.2, 7.3] mask AP points, and 2.9× faster: nothing speaks for "
        "ResNet-50.",
        True,
    ),
    "more accurate at the same speed": (
        CLEAR,
        NO_FASTER,
        "ResNet-50 is more accurate by 4.1 [1.2, 7.3] mask AP points, and no difference in speed matters.",
        True,
    ),
    "a measurable but tiny difference in speed": (
        CLEAR,
        HARDLY_FASTER,
        "ResNet-50 is more accurate by 4.1 [1.2, 7.3] mask AP points, and no difference in speed matters.",
        True,
    ),
    "faster and practically as accurate": (
        SAME,
        B_FASTER,
        "MobileNetV2 is 2.9× faster and practically as accurate: ResNet-50 is ahead by 0.2 [−0.5, 0.8] mask AP points, "
        "which is within ±1.",
        True,
    ),
    "the same in both": (
        EXACT,
        NO_FASTER,
        "ResNet-50 and MobileNetV2 are practically the same: the difference is 0.0 [0.0, 0.0] mask AP points, which is "
        "within ±1, and no difference in speed matters.",
        True,
    ),
    "not distinguishable": (
        OPEN,
        B_FASTER,
        "MobileNetV2 is 2.9× faster; too few images to tell which is more accurate: ResNet-50 is ahead by "
        "1.2 [−2.1, 4.6] mask AP points, and about 2,000 photos would settle a difference of that size.",
        False,
    ),
    "not distinguishable at the same speed": (
        OPEN,
        NO_FASTER,
        "No difference in speed matters between ResNet-50 and MobileNetV2; too few images to tell which is more "
        "accurate: ResNet-50 is ahead by 1.2 [−2.1, 4.6] mask AP points, and about 2,000 photos would settle a "
        "difference of that size.",
        False,
    ),
    "too small a difference for any number of photos": (
        TINY,
        B_FASTER,
        "MobileNetV2 is 2.9× faster; too few images to tell which is more accurate: the difference is 0.0 [−3.0, 3.0] "
        "mask AP points, so small a difference that it would take more than 10,000 photos to settle.",
        False,
    ),
    "nothing labelled": (
        None,
        B_FASTER,
        "Nothing is labelled in these photos, so accuracy cannot be compared; MobileNetV2 is 2.9× faster.",
        False,
    ),
}


@pytest.mark.parametrize(("numbers", "ratio", "sentence", "decided"), CASES.values(), ids=CASES)
def test_the_sentence(numbers: Numbers | None, ratio: Numbers, sentence: str, decided: bool):
    verdict = decide(statistics(numbers), cost(ratio), LABELS)
    assert verdict.sentence == sentence
    assert verdict.decided is decided
    assert (verdict.photos_needed is not None) == ("would settle" in sentence)
    assert "significant" not in " ".join([verdict.sentence, *verdict.reasons])


@pytest.mark.parametrize(("numbers", "ratio"), [case[:2] for case in CASES.values()], ids=CASES)
def test_every_number_of_the_sentence_is_one_that_was_measured(numbers: Numbers | None, ratio: Numbers):
    verdict = decide(statistics(numbers), cost(ratio), LABELS)
    text = verdict.sentence
    for label in LABELS.values():
        text = text.replace(label, "")
    stated = {abs(float(number.replace(",", ""))) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)}
    measured = [*(numbers or ()), ratio[0], 1 / ratio[0], verdict.photos_needed or 10_000, 1]
    assert stated <= {round(abs(value), 1) for value in measured}


def test_arms_that_find_next_to_nothing_are_not_ranked():
    verdict = decide(statistics((1.0, 0.5, 2.0), ap50=2.5), cost(), LABELS)
    assert verdict.sentence == (
        "Neither model is of use yet: mask AP50 is 2.5 (ResNet-50) and 1.5 (MobileNetV2); "
        "train longer and check the labels before comparing."
    )
    assert (verdict.decided, verdict.photos_needed) == (True, None)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ({"red panda": OPEN, "giant panda": CLEAR}, "; on red panda alone the difference is not distinguishable from"),
        ({"red panda": (-1.2, -4.6, 2.1), "giant panda": CLEAR}, "points; on red panda alone the difference is not"),
        ({"red panda": MIRRORED, "giant panda": CLEAR}, "; on red panda alone MobileNetV2 is ahead (exploratory)."),
        ({"a": OPEN, "b": OPEN, "c": OPEN, "d": CLEAR}, "; on 3 of 4 classes alone the difference is not"),
        ({"red panda": CLEAR, "giant panda": CLEAR}, "mask AP points."),
        ({"red panda": None, "giant panda": OPEN}, "mask AP points."),
    ],
)
def test_classes_that_differ_from_the_whole_are_named_as_exploratory(classes: dict[str, Numbers | None], said: str):
    verdict = decide(statistics(CLEAR, classes=classes), cost(), LABELS)
    assert said in verdict.sentence
    by_class = [reason for reason in verdict.reasons if reason.startswith("By class")]
    assert all("exploratory" in reason for reason in by_class)
    assert len(by_class) == (1 if None not in classes.values() else 0)


def test_a_long_list_of_classes_is_cut_with_the_clear_ones_first():
    classes = {f"class {n}": OPEN for n in range(14)} | {"the clear one": CLEAR}
    (by_class,) = [r for r in decide(statistics(CLEAR, classes=classes), cost(), LABELS).reasons if "By class" in r]
    assert "of 15 intervals" in by_class
    assert "chance alone): on the clear one ResNet-50 is ahead by 4.1 [1.2, 7.3];" in by_class
    assert by_class.endswith("5 more classes are in the table.")


@pytest.mark.parametrize(("photos", "warned"), [(12, True), (19, True), (20, False)])
def test_intervals_of_few_photos_come_with_a_warning(photos: int, warned: bool):
    verdict = decide(statistics(CLEAR, photos=photos), cost(), LABELS)
    assert (f"; with only {photos} labelled photos the interval is too narrow" in verdict.sentence) is warned
    assert any("fewer than 20 labelled photos" in reason for reason in verdict.reasons) is warned


@pytest.mark.parametrize("empty", [0, 40])
def test_a_handful_of_labelled_photos_decides_nothing_however_narrow_the_interval(empty: int):
    verdict = decide(statistics((9.0, 9.0, 9.0), photos=1, empty=empty), cost(), LABELS)
    assert not verdict.decided
    assert verdict.sentence.endswith(
        "ResNet-50 is ahead by 9.0 [9.0, 9.0] mask AP points on 1 labelled photo, which says nothing about others; "
        "label at least 20."
    )
    assert verdict.photos_needed == 20


def test_the_reasons_say_what_these_photos_could_have_shown_and_how_many_would_settle_it():
    verdict = decide(statistics(OPEN), cost(), LABELS)
    (power,) = (reason for reason in verdict.reasons if "80 % power" in reason)
    least = detectable(standard_error(1.2, -2.1, 4.6))
    assert f"a difference of {least:.1f} mask AP points" in power
    assert power.endswith("A difference of 1.2 would need about 2,000 photos.")


@pytest.mark.parametrize(
    ("numbers", "needed"), [((27.7, 0.0, 31.7), 62), ((-27.7, -31.7, 0.0), 62), ((5.0, -0.1, 5.0), 64)]
)
def test_what_these_photos_leave_open_needs_more_of_them(numbers: Numbers, needed: int):
    """However far the interval lies to one side: half its width alone would ask for fewer than there are."""
    verdict = decide(statistics(numbers, photos=30), cost(), LABELS)
    assert verdict.photos_needed == needed
    (power,) = (reason for reason in verdict.reasons if "80 % power" in reason)
    least = re.search(r"a difference of ([\d.]+) mask AP", power)
    assert least
    assert float(least[1]) > abs(numbers[0])


def test_more_photos_than_anybody_labels_are_not_asked_for_fewer():
    verdict = decide(statistics(OPEN, photos=20_000), cost(), LABELS)
    assert "more than 20,000 photos to settle" in verdict.sentence
    assert any("would need more than 20,000 photos" in reason for reason in verdict.reasons)


def test_the_reasons_give_ap_speed_size_finds_and_the_luck_of_training():
    text = " ".join(decide(statistics(CLEAR), cost(), LABELS).reasons)
    for part in (
        "Mask AP is 50.0 (ResNet-50) and 45.9 (MobileNetV2) on 120 test photos with 70 instances",
        "In mask AP ResNet-50 is ahead by 4.1 [1.2, 7.3]; ResNet-50 is ahead in 70.5 % of 2,000 paired resamples",
        "100 ms (ResNet-50) and 100 ms (MobileNetV2) in the median",
        "MobileNetV2 is faster, by a ratio of 2.9× [2.8×, 3.1×]",
        "MobileNetV2 has 44.0 million parameters, needs 120.0 GFLOPs a photo, 18.0 MB on disk",
        "From a score of 0.5 on, ResNet-50 finds 60 of 70 instances, with 20 wrong answers",
        "not the luck of training",
    ):
        assert part in text


@pytest.mark.parametrize("equal", [True, False])
def test_served_answers_that_differ_from_offline_are_said_aloud(equal: bool):
    arm = ServedArm("a", "m", "1.0", "d", equal, 50.0 if equal else 41.0, 50.0, 60.0, 60.0, 10.0, 12.0)
    served = Served("localhost:7070", (arm, replace(arm, arm="b")), 0.1, equal)
    last = decide(statistics(CLEAR), cost(), LABELS, served).reasons[-1]
    assert ("equal within 0.1" in last) is equal
    assert ("NOT what was measured offline" in last) is not equal
    assert ("other weights than this run's" in last) is not equal


@pytest.mark.parametrize(
    ("difference", "needed"), [(2.8, 100), (1.4, 400), (0.9, 970), (0.3, 8800), (0.2, None), (0.0, None)]
)
def test_the_photos_needed_grow_with_the_square_of_how_small_the_difference_is(difference: float, needed: int | None):
    # the error of 100 photos is 1 / 2.8016 × 2.8, so that 2.8 is just what they show
    assert photos_for(difference, error=2.8 / detectable(1.0), photo_count=100) == needed
