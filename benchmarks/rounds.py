"""In each round every subject has one turn; who begins moves on from round to round.

    round 1: a b c    round 2: b c a    round 3: c a b    …      ─▶ {name: a number for each round}

Whatever else the machine does in a round it does to all, so that numbers are compared within a round only. No round
is ever dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Value = TypeVar("Value")


def take_turns(
    steps: Mapping[str, Callable[[], Value]],
    rounds: int,
    *,
    warm_ups: int = 1,
    on_turn: Callable[[str], None] = lambda _name: None,
) -> dict[str, tuple[Value, ...]]:
    """What each step returned in each round.

    Args:
        steps: by name; each does one piece of work and says what it took.
        warm_ups: rounds before the first that counts.
        on_turn: is called with a subject's name before its turn.
    """
    names = list(steps)
    taken: dict[str, list[Value]] = {name: [] for name in names}
    for number in range(-warm_ups, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            on_turn(name)
            value = steps[name]()
            if number >= 0:
                taken[name].append(value)
    return {name: tuple(values) for name, values in taken.items()}


def time_each(cases: Mapping[str, Callable[[], int]]) -> dict[str, dict[str, float]]:
    """One after the other, each case's "ms" and how many "instances" it found."""
    told = {}
    for name, case in cases.items():
        start = time.perf_counter()
        instances = case()
        told[name] = {"ms": (time.perf_counter() - start) * 1000, "instances": instances}
    return told
