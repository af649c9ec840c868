"""The verdict on two arms, in plain English with its numbers: findings ─▶ one sentence, and the reasons for it.

"MobileNetV2 is 2.9× faster and loses 4.1 [1.2, 7.3] mask AP points; on red panda alone the difference is not
distinguishable from zero (exploratory)."
"""

from __future__ import annotations

from collections.abc import Mapping

from maskserve.comparison.findings import (
    FEW_PHOTOS,
    LEAST_PHOTOS,
    OTHER,
    SAME_AP,
    Accuracy,
    Gap,
    Speed,
    accuracy,
    all_classes,
    class_gaps,
    labelled_photos,
    lighter,
    speed,
)
from maskserve.comparison.reasons import interval, lead, points, reasons, times
from maskserve.comparison.results import ArmName, Cost, Served, Statistics, Verdict
from maskserve.comparison.sample_size import beyond

Labels = Mapping[ArmName, str]


def decide(statistics: Statistics, cost: Cost, arm_labels: Labels, served: Served | None = None) -> Verdict:
    """What to make of a comparison.

    Args:
        arm_labels: what sentences call the arms, e.g. {"a": "ResNet-50", "b": "MobileNetV2"}.
    """
    accurate, fast = accuracy(statistics), speed(cost)
    return Verdict(
        sentence=_sentence(statistics, cost, arm_labels, accurate, fast),
        reasons=tuple(reasons(statistics, cost, arm_labels, accurate, fast, served)),
        decided=accurate.case not in ("unlabelled", "open"),
        photos_needed=accurate.photos_needed,
    )


def _sentence(statistics: Statistics, cost: Cost, labels: Labels, accurate: Accuracy, fast: Speed) -> str:
    if accurate.gap is None:
        return f"Nothing is labelled in these photos, so accuracy cannot be compared; {_pace(labels, fast)}."
    if accurate.case == "useless":
        row = all_classes(statistics, "AP50")
        return (
            f"Neither model is of use yet: mask AP50 is {points(row.a)} ({labels['a']}) and {points(row.b)} "
            f"({labels['b']}); train longer and check the labels before comparing."
        )
    if accurate.case == "open":
        return f"{_start(_pace(labels, fast))}; {_open(statistics, labels, accurate, accurate.gap)}."
    if accurate.case == "same":
        start = _same(labels, accurate.gap, fast)
    else:
        start = _ahead(cost, labels, accurate.gap, fast) + _on_classes(class_gaps(statistics), accurate.gap, labels)
    return f"{start}{_few(statistics)}."


def _pace(labels: Labels, fast: Speed) -> str:
    """'B is 2.9× faster'"""
    if fast.faster is None:
        return f"no difference in speed matters between {labels['a']} and {labels['b']}"
    return f"{labels[fast.faster]} is {times(fast.ratio)} faster"


def _open(statistics: Statistics, labels: Labels, accurate: Accuracy, gap: Gap) -> str:
    start = f"too few images to tell which is more accurate: {lead(gap, labels)} mask AP points"
    if labelled_photos(statistics) < LEAST_PHOTOS:
        return f"{start} on {_photos(statistics)}, which says nothing about others; label at least {FEW_PHOTOS}"
    if accurate.photos_needed:
        return f"{start}, and about {accurate.photos_needed:,} photos would settle a difference of that size"
    most = beyond(statistics.image_count)
    return f"{start}, so small a difference that it would take more than {most:,} photos to settle"


def _same(labels: Labels, gap: Gap, fast: Speed) -> str:
    within = f"{lead(gap, labels)} mask AP points, which is within ±{SAME_AP:.0f}"
    if fast.faster is None:
        return f"{labels['a']} and {labels['b']} are practically the same: {within}, and no difference in speed matters"
    return f"{_pace(labels, fast)} and practically as accurate: {within}"


def _ahead(cost: Cost, labels: Labels, gap: Gap, fast: Speed) -> str:
    better, worse = labels[gap.ahead], labels[OTHER[gap.ahead]]
    if fast.faster is None:
        return f"{better} is more accurate by {interval(gap)} mask AP points, and no difference in speed matters"
    if fast.faster != gap.ahead:
        return f"{_pace(labels, fast)} and loses {interval(gap)} mask AP points"
    left = " and ".join(lighter(cost, OTHER[gap.ahead]))
    return (
        f"{better} is both more accurate, by {interval(gap)} mask AP points, and {times(fast.ratio)} faster: nothing "
        f"speaks for {worse}" + (f" but its {left}" if left else "")
    )


def _on_classes(gaps: Mapping[str, Gap], whole: Gap, labels: Labels) -> str:
    """The classes on which it is not as it is on the whole: clearly the other way round, or not to be told."""
    turned = [name for name, gap in gaps.items() if gap.is_clear and gap.ahead != whole.ahead]
    unclear = [name for name, gap in gaps.items() if not gap.is_clear]
    text = ""
    if turned:
        text += f"; on {_names(turned, len(gaps))} alone {labels[OTHER[whole.ahead]]} is ahead (exploratory)"
    if unclear:
        text += f"; on {_names(unclear, len(gaps))} alone the difference is not distinguishable from zero (exploratory)"
    return text


def _names(names: list[str], total: int) -> str:
    return " and ".join(names) if len(names) <= 2 else f"{len(names)} of {total} classes"


def _few(statistics: Statistics) -> str:
    if labelled_photos(statistics) >= FEW_PHOTOS:
        return ""
    return f"; with only {_photos(statistics)} the interval is too narrow, so label at least {FEW_PHOTOS}"


def _photos(statistics: Statistics) -> str:
    count = labelled_photos(statistics)
    return f"{count:,} labelled photo{'' if count == 1 else 's'}"


def _start(text: str) -> str:
    """With a capital where it is our own word and not an arm's name."""
    return "No" + text.removeprefix("no") if text.startswith("no difference") else text
