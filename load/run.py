"""A schedule and uploads ─▶ samples.

Each thread takes the next request that is due, waits for its moment, sends it and waits for the answer. One thread at a
time stands at the head of the schedule, so that requests leave in order and nothing is queued; while there is a free
thread, no answer delays the next request. When all are busy, requests leave late, and the samples say by how much.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, takewhile

from maskserve.load.schedule import Schedule
from maskserve.load.sending import Outcome

_LOOK_S = 0.1
_ABORT_S = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One request; times are seconds since the start."""

    due_s: float
    sent_s: float
    done_s: float
    outcome: Outcome

    @property
    def latency_s(self) -> float:
        """What its user waited."""
        return self.done_s - self.due_s


@dataclass(frozen=True)
class Recording:
    samples: tuple[Sample, ...]
    most_in_flight: int
    stopped_s: float | None = None
    """When Ctrl-C came, if it did."""
    unanswered: int = 0
    """Requests that were under way then, or due and not sent yet."""


def record(
    send: Callable[[bytes], Outcome],
    bodies: Sequence[bytes],
    schedule: Schedule,
    *,
    threads: int,
    abort: Callable[[], None] = lambda: None,
    on_look: Callable[[float, int], None] = lambda _elapsed_s, _in_flight: None,
    waits_after_shed: bool = False,
) -> Recording:
    """Sends the bodies in turn as the schedule says, until it ends and all answers are there, or until Ctrl-C.

    Whatever `send` raises ends the sending and is raised here.

    Args:
        threads: requests that can be under way at the same time.
        abort: ends the requests under way, after Ctrl-C.
        on_look: called about ten times a second with the seconds since the start and the requests under way.
        waits_after_shed: a refused user stays away for Retry-After, instead of coming back at once.
    """
    stopped_s, unanswered = None, 0
    crew = _Crew(send, bodies, schedule, waits_after_shed)
    workers = [threading.Thread(target=crew.work, name=f"load-{number}", daemon=True) for number in range(threads)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():
                worker.join(_LOOK_S)
                on_look(crew.now_s(), crew.in_flight)
    except KeyboardInterrupt:
        stopped_s, unanswered = crew.now_s(), crew.in_flight
        crew.stop()
        unanswered += crew.overdue(stopped_s)
        abort()
        deadline = time.monotonic() + _ABORT_S
        for worker in workers:
            if worker.ident is not None:
                worker.join(max(0.0, deadline - time.monotonic()))
    if crew.fault:
        raise crew.fault
    return Recording(tuple(crew.samples), crew.most_in_flight, stopped_s, unanswered)


class _Crew:
    """What the threads share."""

    def __init__(
        self, send: Callable[[bytes], Outcome], bodies: Sequence[bytes], schedule: Schedule, waits_after_shed: bool
    ) -> None:
        self._send = send
        self._bodies = cycle(bodies)
        self._schedule = schedule
        self._waits_after_shed = waits_after_shed
        self._head = threading.Lock()
        self._count = threading.Lock()
        self._stopping = threading.Event()
        self._start = time.perf_counter()
        self.samples: list[Sample] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.fault: BaseException | None = None
        """What ended a thread before its time."""

    def now_s(self) -> float:
        return time.perf_counter() - self._start

    def stop(self) -> None:
        self._stopping.set()

    def overdue(self, now_s: float) -> int:
        """Requests that no thread was free for, once `stop` was called: what the schedule still has until `now_s`."""
        with self._head:
            dues = iter(partial(self._schedule, now_s), None)
            return sum(1 for _ in takewhile(lambda due_s: due_s < now_s, dues))

    def work(self) -> None:
        try:
            self._send_all()
        except BaseException as error:  # noqa: BLE001 — `record` raises it
            self.fault = error
            self.stop()

    def _send_all(self) -> None:
        while (taken := self._take()) is not None:
            due_s, body = taken
            self._add_in_flight(1)
            sent_s = self.now_s()
            outcome = self._send(body)
            sample = Sample(due_s, sent_s, self.now_s(), outcome)
            self._add_in_flight(-1)
            if self._stopping.is_set():  # cut off by us, perhaps
                return
            self.samples.append(sample)
            if self._waits_after_shed and outcome.kind == "shed":
                if self._schedule(self.now_s() + outcome.retry_after_s) is None:
                    return  # all is over by then
                self._stopping.wait(outcome.retry_after_s)

    def _take(self) -> tuple[float, bytes] | None:
        """The next request, at its time; None at the end."""
        with self._head:
            due_s = None if self._stopping.is_set() else self._schedule(self.now_s())
            if due_s is None:
                return None
            if (wait_s := due_s - self.now_s()) > 0 and self._stopping.wait(wait_s):
                return None
            return due_s, next(self._bodies)

    def _add_in_flight(self, change: int) -> None:
        with self._count:
            self.in_flight += change
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
