"""The reasons of a verdict, one sentence or two each, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from maskserve.comparison.findings import (
    FEW_PHOTOS,
    LEAST_PHOTOS,
    Accuracy,
    Gap,
    Speed,
    all_classes,
    arm_cost,
    class_gaps,
    gap,
    labelled_photos,
)
from maskserve.comparison.results import ARM_NAMES, ArmName, Cost, Row, Served, Statistics
from maskserve.comparison.sample_size import beyond, detectable

Labels = Mapping[ArmName, str]
SHOWN_CLASSES = 10


def points(value: float | None) -> str:
    """AP or a difference of it; a true minus, and no minus zero."""
    return "–" if value is None else f"{round(value, 1) + 0.0:.1f}".replace("-", "−")


def interval(gap: Gap) -> str:
    """'4.1 [1.2, 7.3]'"""
    return f"{points(gap.size)} [{points(gap.low)}, {points(gap.high)}]"


def lead(gap: Gap, labels: Labels) -> str:
    """'B is ahead by 4.1 [1.2, 7.3]'"""
    ahead = f"{labels[gap.ahead]} is ahead by" if float(points(gap.size)) else "the difference is"
    return f"{ahead} {interval(gap)}"


def times(ratio: float) -> str:
    """'2.9×', '1.08×'"""
    return f"{ratio:.2f}×" if ratio < 1.5 else f"{ratio:.1f}×"


def reasons(
    statistics: Statistics, cost: Cost, labels: Labels, accurate: Accuracy, fast: Speed, served: Served | None
) -> Iterator[str]:
    """What the verdict rests on, the weightiest first."""
    yield _accuracy(statistics, labels)
    yield _speed(cost, labels, fast)
    yield _size(cost, labels)
    if accurate.gap is not None:
        yield _finds(statistics, labels)
        if labelled_photos(statistics) >= LEAST_PHOTOS:
            yield _power(statistics, accurate, accurate.gap)
        yield from _classes(statistics, labels)
        if (count := labelled_photos(statistics)) < FEW_PHOTOS:
            yield (
                f"Intervals from fewer than {FEW_PHOTOS} labelled photos ({count:,} here) are known to be too narrow: "
                "take every interval on this page for a rough guess."
            )
        yield (
            "The intervals tell how much the choice of test photos matters, not the luck of training: each arm was "
            "trained once, and another seed gives another difference."
        )
    if served is not None:
        yield _served(served, labels)


def _accuracy(statistics: Statistics, labels: Labels) -> str:
    ap, ap50 = (all_classes(statistics, metric) for metric in ("AP", "AP50"))
    found, where = gap(ap), f"{statistics.image_count:,} {statistics.split} photos"
    if found is None:
        return f"The {where} have no labelled instance, so there is no AP."
    return (
        f"Mask AP is {_both(ap, labels)} on {where} with {ap.instance_count:,} instances; AP50 is "
        f"{_both(ap50, labels)}, box AP {_both(statistics.box.rows[0], labels)}. In mask AP {lead(found, labels)}; "
        f"{labels[found.ahead]} is ahead in {_share(ap, found)} of {statistics.resamples:,} paired resamples of the "
        "photos (a tie counts half)."
    )


def _both(row: Row, labels: Labels) -> str:
    return f"{points(row.a)} ({labels['a']}) and {points(row.b)} ({labels['b']})"


def _share(row: Row, found: Gap) -> str:
    a_better = row.p_a_better or 0.0
    return f"{100 * (a_better if found.ahead == 'a' else 1 - a_better):.1f} %"


def _speed(cost: Cost, labels: Labels, fast: Speed) -> str:
    medians = " and ".join(f"{arm_cost(cost, arm).p50_ms:.0f} ms ({labels[arm]})" for arm in ARM_NAMES)
    tails = " and ".join(f"{arm_cost(cost, arm).p95_ms:.0f} ms" for arm in ARM_NAMES)
    ratio = f"{times(fast.ratio)} [{times(fast.low)}, {times(fast.high)}]"
    said = f"{labels[fast.faster]} is faster" if fast.faster else "neither is faster to a degree that matters"
    return f"A photo takes {medians} in the median, {tails} at the 95th percentile: {said}, by a ratio of {ratio}."


def _size(cost: Cost, labels: Labels) -> str:
    arms = [
        f"{labels[arm]} has {of.parameters / 1e6:.1f} million parameters, needs {of.flops / 1e9:.1f} GFLOPs a photo, "
        f"{of.archive_bytes / 1e6:.1f} MB on disk and {of.memory_bytes / 1e6:,.0f} MB of memory"
        for arm, of in zip(ARM_NAMES, (cost.a, cost.b), strict=True)
    ]
    return "; ".join(arms) + "."


def _finds(statistics: Statistics, labels: Labels) -> str:
    arms = []
    for arm in ARM_NAMES:
        mine = [entry for entry in statistics.confusion if entry.arm == arm]
        found, labelled = sum(entry.found for entry in mine), sum(entry.labelled for entry in mine)
        wrong = sum(entry.answers for entry in mine) - found
        arms.append(f"{labels[arm]} finds {found:,} of {labelled:,} instances, with {wrong:,} wrong answers")
    return f"From a score of {statistics.score_threshold:g} on, {'; '.join(arms)}."


def _power(statistics: Statistics, accurate: Accuracy, gap: Gap) -> str:
    least = points(detectable(gap.error))
    text = (
        f"These {statistics.image_count:,} photos show a difference of {least} mask AP points or more in four cases of "
        "five (95 % interval, 80 % power)."
    )
    if accurate.case != "open":
        return text
    most = f"more than {beyond(statistics.image_count):,}"
    needed = f"about {accurate.photos_needed:,}" if accurate.photos_needed else most
    return f"{text} A difference of {points(gap.size)} would need {needed} photos."


def _classes(statistics: Statistics, labels: Labels) -> Iterator[str]:
    """Those whose difference is clear first, then by its size."""
    gaps = class_gaps(statistics)
    order = sorted(gaps, key=lambda name: (not gaps[name].is_clear, -gaps[name].size))
    said = [
        f"on {name} {lead(gaps[name], labels)}" + ("" if gaps[name].is_clear else ", not distinguishable from zero")
        for name in order[:SHOWN_CLASSES]
    ]
    if said:
        more = f"; {len(order) - SHOWN_CLASSES} more classes are in the table" if len(order) > SHOWN_CLASSES else ""
        yield (
            f"By class, exploratory (of {len(gaps)} interval{'' if len(gaps) == 1 else 's'} at 95 %, each leaves zero "
            f"out once in 20 times by chance alone): {'; '.join(said)}{more}."
        )


def _served(served: Served, labels: Labels) -> str:
    arms = "; ".join(
        f"{labels[arm.arm]} {points(arm.mask_ap)} served and {points(arm.mask_ap_offline)} offline"
        + ("" if arm.same_weights else " (other weights than this run's)")
        for arm in served.arms
    )
    said = f"equal within {served.tolerance:g}" if served.equal else "NOT what was measured offline"
    return f"Mask AP of the answers that TorchServe gave is {said}: {arms}."
