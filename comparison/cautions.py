"""What a reader must know before believing the difference: unequal precision, starts, schedules, data; photos seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from maskserve.comparison.results import ArmFacts, Comparison

FEW_INSTANCES = 20
"""Below so many, a class's or a size's own figures are anecdotes."""


def cautions(comparison: Comparison) -> list[str]:
    """One sentence each; none when the arms differ in nothing but the network and the photos are new to both."""
    a, b, statistics = comparison.a, comparison.b, comparison.statistics
    found = []
    if a.precision != b.precision:
        found.append(
            f"The arms ran in different precisions, {a.label} in {a.precision} and {b.label} in {b.precision}: the "
            "differences in time and AP are those of the models and their precisions together."
        )
    if a.init != b.init:
        found.append(
            f"The arms started from different weights: {a.label} from {a.init}; {b.label} from {b.init}. The "
            "difference in AP is that of network and start together, not of the networks alone."
        )
    schedules = _differing(a, b, {"preset": "preset", "steps": "steps", "overrides": "config overrides"})
    if schedules:
        found.append(f"The arms were not trained alike: they differ in {_listed(schedules)}.")
    if _differing(a, b, {"data_hash": "data"}):
        found.append("The arms were trained on different data; the difference is that of network and data together.")
    found += _seen(comparison)
    rare = [f"{name} ({count})" for name, count in statistics.instances.items() if 0 < count < FEW_INSTANCES]
    if rare:
        found.append(
            f"Few labelled instances of {_listed(rare)}: read those figures by their intervals, if they have one."
        )
    missing = [name for name, count in statistics.instances.items() if not count]
    if missing:
        found.append(f"No labelled instance of {_listed(missing)}: nothing is known about it.")
    return found


def _seen(comparison: Comparison) -> Iterator[str]:
    """Which arms know the photos, as far as data hashes tell."""
    origin, arms = comparison.origin, (comparison.a, comparison.b)
    same = [arm.label for arm in arms if arm.facts.get("data_hash") == origin.data_hash]
    other = [arm.label for arm in arms if arm.label not in same]
    if same and origin.split == "train":
        yield f"{_listed(same)} {_were(same)} trained on these very photos: AP on them says nothing about new ones."
    if same and origin.split == "val":
        yield f"These photos chose the weights of {_listed(same)}: AP on them flatters. Compare on test photos."
    if other:
        yield (
            f"It cannot be told whether {_listed(other)} {_were(other)} trained on some of these photos: they are from "
            "another data set, or from another import of it."
        )


def _were(names: list[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _differing(a: ArmFacts, b: ArmFacts, keys: dict[str, str]) -> list[str]:
    """Words for those of run.json's keys that both have and that differ."""
    return [word for key, word in keys.items() if _known(a, key) and _known(b, key) and a.facts[key] != b.facts[key]]


def _known(arm: ArmFacts, key: str) -> Any:
    return arm.facts.get(key) is not None


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
