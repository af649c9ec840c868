"""Samples ─▶ what users of each arm saw.

Requests that were due in the window (after the warm-up) are counted. Latency is that of answers alone: a request that
was refused, failed or had no answer in time is counted apart, and never as a fast or a slow one. Answers a second are
those that arrived in the window.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from maskserve.load.run import Recording, Sample

LATE_MS = 20.0
"""Above this the generator's own delay is said."""
ALL = "all"


@dataclass(frozen=True)
class Row:
    """One arm's users, or everybody's (`arm` is "all"). Times in ms; None without an answer."""

    arm: str
    requests: int
    answered: int
    answered_per_s: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    shed: int
    timeouts: int
    errors: Mapping[str, int]
    """By problem code."""

    @property
    def failed(self) -> int:
        return self.timeouts + sum(self.errors.values())


@dataclass(frozen=True)
class Step:
    """What one rate, or one number of users, gave."""

    mode: Literal["rate", "concurrency"]
    load: float
    """Requests a second that were due, or users."""
    seconds: float
    """The window's length."""
    rows: tuple[Row, ...]
    """Everybody, then each arm."""
    late_p99_ms: float
    """How long after their time requests were sent; part of the latencies."""
    most_in_flight: int
    unanswered: int
    """Under way or overdue at Ctrl-C; in no row."""

    @property
    def everybody(self) -> Row:
        return self.rows[0]


def summarise(
    mode: Literal["rate", "concurrency"], load: float, recording: Recording, *, warm_up_s: float, until_s: float
) -> Step:
    """The window is from `warm_up_s` to the schedule's end, `until_s`, or to Ctrl-C."""
    end_s = until_s if recording.stopped_s is None else max(warm_up_s, recording.stopped_s)
    counted = [sample for sample in recording.samples if warm_up_s <= sample.due_s < end_s]
    seen = [sample for sample in recording.samples if warm_up_s <= sample.done_s < end_s]
    seconds = end_s - warm_up_s
    arms = sorted({sample.outcome.arm for sample in counted} - {""})
    rows = [_row(arm, _of(arm, counted), _of(arm, seen), seconds) for arm in arms]
    late = [(sample.sent_s - sample.due_s) * 1000 for sample in counted]
    return Step(
        mode,
        load,
        seconds,
        (_row(ALL, counted, seen, seconds), *rows),
        late_p99_ms=percentile(late, 99) or 0.0,
        most_in_flight=recording.most_in_flight,
        unanswered=recording.unanswered,
    )


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The smallest value that at least `percent` % of the values do not exceed (nearest rank); None of no values.

    It is always one that was measured: of fewer than 100 values, the 99th percentile is the largest.
    """
    return float(np.percentile(values, percent, method="inverted_cdf")) if values else None


def _of(arm: str, samples: Iterable[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.outcome.arm == arm]


def _row(arm: str, counted: Sequence[Sample], seen: Sequence[Sample], seconds: float) -> Row:
    spent_ms = [sample.latency_s * 1000 for sample in counted if sample.outcome.kind == "answered"]
    kinds = Counter(sample.outcome.kind for sample in counted)
    arrived = sum(sample.outcome.kind == "answered" for sample in seen)
    return Row(
        arm,
        requests=len(counted),
        answered=kinds["answered"],
        answered_per_s=arrived / seconds if seconds > 0 else 0.0,
        p50_ms=percentile(spent_ms, 50),
        p95_ms=percentile(spent_ms, 95),
        p99_ms=percentile(spent_ms, 99),
        max_ms=percentile(spent_ms, 100),
        shed=kinds["shed"],
        timeouts=kinds["timeout"],
        errors=dict(Counter(sample.outcome.code for sample in counted if sample.outcome.kind == "error")),
    )
