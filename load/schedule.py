"""When each request is due.

open loop    Poisson arrivals (independent users) or even ones, whatever the server does
closed loop  as soon as one of N users has its last answer

A schedule is called with the seconds since the start and says when the next request is due on the same clock, or None
when there is no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import numpy as np

Schedule = Callable[[float], float | None]


def open_loop(rate: float, until_s: float, *, seed: int = 0, constant: bool = False) -> Schedule:
    """Arrivals at `rate` a second; the same ones for the same seed.

    Args:
        until_s: none is due at or after this.
        constant: evenly spaced instead of Poisson, whose gaps are exponentially distributed.
    """
    arrivals = _even(rate) if constant else _poisson(rate, seed)

    def next_due(_now_s: float) -> float | None:
        due_s = next(arrivals)
        return due_s if due_s < until_s else None

    return next_due


def closed_loop(until_s: float) -> Schedule:
    """Due at once, until `until_s`; how many run together is the number of threads."""
    return lambda now_s: now_s if now_s < until_s else None


def _even(rate: float) -> Iterator[float]:
    return (number / rate for number in count())


def _poisson(rate: float, seed: int) -> Iterator[float]:
    # another stream for each rate: one unlucky start must not be in all points of a sweep
    random = np.random.default_rng((seed, round(rate * 1000)))
    due_s = 0.0
    while True:
        due_s += float(random.exponential(1 / rate))
        yield due_s
