"""One arm's door: a request comes in only if its answer can be expected in time.

    requests at the arm × measured cost of a photo ÷ READY workers  ─▶  expected seconds  ─▶  in, or refused until when

TorchServe itself computes what waits in its queue even when nobody wants the answer any more, so what cannot be
answered in time must not get there. Until the first answer has said what a photo costs, and while the workers cannot
be counted, only the cap holds. An arm without requests takes the next one, whatever it costs.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from maskserve.gateway.problems import RETRY_AFTER_S
from maskserve.protos.types import Timings

_REMEMBERED = 31
"""Answers whose costs are remembered; their median is not moved by a slow first request or a rare huge photo."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not let in."""

    retry_after_s: int
    """When there should be room."""
    expected_s: float | None
    """How long the answer would have taken; None when the arm has as many requests as it may, whatever they cost."""


class Admission:
    """Thread-safe. Each `enter()` that lets a request in is followed by one `leave()`.

    Args:
        cap: requests at the arm at the same time, whatever they cost: each holds a photo in memory.
        share: of the time that a request has left, so much may pass until its answer.
    """

    def __init__(self, cap: int, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._cap = cap
        self._share = share
        self._clock = clock
        self._lock = threading.Lock()
        self._in_flight = 0
        self._unwanted: list[float] = []
        self._costs_s: deque[float] = deque(maxlen=_REMEMBERED)
        self._cost_s: float | None = None

    def enter(self, remaining_s: float, workers: int | None) -> Refusal | None:
        """None lets the request in. `workers` are those that are READY, None when nobody knows."""
        with self._lock:
            expected_s = self._expected_s(workers)
            if self._in_flight >= self._cap:
                one_less_s = RETRY_AFTER_S if expected_s is None else expected_s / (self._in_flight + 1)
                return Refusal(_whole_seconds(one_less_s), None)
            allowed_s = remaining_s * self._share
            if self._in_flight and expected_s is not None and expected_s > allowed_s:
                return Refusal(_whole_seconds(expected_s - allowed_s), expected_s)
            self._in_flight += 1
            return None

    def leave(self) -> None:
        with self._lock:
            self._in_flight -= 1

    def learn(self, timings: Timings) -> None:
        """What the photo of an answer has cost a worker: its share of the batch."""
        with self._lock:
            self._costs_s.append(timings.total_ms / 1000 / max(1, timings.batch_size))
            self._cost_s = median(self._costs_s)

    def give_up(self, workers: int | None) -> None:
        """A request of which no answer came in time: until its turn is over, a worker is still going to compute it."""
        with self._lock:
            expected_s = self._expected_s(workers)
            if expected_s is not None:
                self._unwanted.append(self._clock() + expected_s)

    def expected_s(self, workers: int | None) -> float:
        """How long an answer to a request that came now would take; 0 when that is not known."""
        with self._lock:
            return self._expected_s(workers) or 0.0

    def _expected_s(self, workers: int | None) -> float | None:
        if self._cost_s is None or workers is None:
            return None
        now = self._clock()
        self._unwanted = [until for until in self._unwanted if until > now]
        waiting = self._in_flight + len(self._unwanted)
        return self._cost_s * max(1.0, (waiting + 1) / max(1, workers))


def _whole_seconds(seconds: float) -> int:
    return max(1, math.ceil(seconds))
