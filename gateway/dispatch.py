"""A route ─▶ the first arm that can answer: breaker, in-flight limit, one deadline, fallback.

shed        the arm already has as many requests as it may: 503 at once, no fallback, so that one arm's rush
            neither drowns the other nor bends the experiment
breaker     the arm failed several times in a row: nobody waits for it, the next arm answers
fallback    the arm is down, not loaded or has no worker: the next arm answers, and the answer says so.
            Not after `worker_died`: the client has already tried twice, so the photo may be what kills it
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from maskserve.client.errors import ServerError
from maskserve.gateway import problems
from maskserve.gateway.breaker import Breaker
from maskserve.gateway.metrics import Metrics
from maskserve.gateway.problems import Problem
from maskserve.gateway.routing import Reason, Route
from maskserve.gateway.settings import Arm, Settings
from maskserve.protos.errors import RequestError
from maskserve.protos.types import Segmentation, SegmentOptions

OTHER_ARM_MAY_HELP = frozenset({"unavailable", "overloaded", "model_not_found", "out_of_memory"})
OPENS_BREAKER = OTHER_ARM_MAY_HELP | {"timeout", "unauthorized"}
"""Failures that speak against the arm; a handler's bug or a deadly photo says nothing about the next request."""


class Predicts(Protocol):
    """What the gateway needs of `maskserve.client.Client` to get answers."""

    def predict(
        self,
        image: bytes,
        *,
        model: str,
        version: str = "",
        options: SegmentOptions = ...,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Segmentation: ...


@dataclass(frozen=True, slots=True)
class Job:
    """One photo to be segmented."""

    image: bytes
    options: SegmentOptions
    request_id: str
    deadline: float
    """On `time.monotonic()`'s clock."""

    @property
    def remaining_s(self) -> float:
        return max(0.0, self.deadline - time.monotonic())


@dataclass(frozen=True, slots=True)
class Answer:
    segmentation: Segmentation
    arm: str
    reason: Reason
    call_ms: float
    """Wall time of the call to TorchServe, queue and network included."""
    fallback_from: str | None = None
    """The arm that should have answered."""


class Dispatcher:
    """Thread-safe."""

    def __init__(self, settings: Settings, client: Predicts, metrics: Metrics) -> None:
        self._client = client
        self._metrics = metrics
        limit = settings.limits.in_flight_per_arm
        self._arms = {name: _ArmState(arm, limit) for name, arm in settings.arms.items()}
        self._pool = ThreadPoolExecutor(max_workers=limit, thread_name_prefix="compare")

    def close(self) -> None:
        self._pool.shutdown()

    def predict(self, job: Job, route: Route) -> Answer:
        """The answer of the route's first arm that has one. Raises Problem, RequestError."""
        first = route.arms[0]
        try:
            return replace(self._ask(job, first), reason=route.reason)
        except _ArmIsDown as error:
            failure = error.problem
        for arm in route.arms[1:]:
            try:
                answer = self._ask(job, arm)
            except _ArmIsDown:
                continue
            self._metrics.fallbacks.labels(first, arm, failure.code).inc()
            return replace(answer, reason=Reason.FALLBACK, fallback_from=first)
        raise failure

    def compare(self, job: Job, left: str, right: str) -> tuple[Answer, Answer]:
        """Both arms' answers, asked at the same time. Raises Problem, RequestError."""
        other = self._pool.submit(self.predict, job, Route((right,), Reason.OVERRIDE))
        try:
            one = self.predict(job, Route((left,), Reason.OVERRIDE))
        finally:
            other.exception()  # wait: nothing of this request goes on after its answer
        return one, other.result()

    def _ask(self, job: Job, name: str) -> Answer:
        state = self._arms[name]
        if not state.slots.acquire(blocking=False):
            self._metrics.shed.labels(name).inc()
            raise problems.unavailable("too_many_requests", "This arm has all the requests that it may have.", name)
        try:
            if not state.breaker.allow():
                text = "This arm failed several times in a row and is left alone for a moment."
                raise _ArmIsDown(problems.unavailable("arm_unavailable", text, name))
            with self._metrics.in_flight.labels(name).track_inprogress():
                return self._call(job, name, state)
        finally:
            state.slots.release()

    def _call(self, job: Job, name: str, state: _ArmState) -> Answer:
        started = time.monotonic()
        try:
            segmentation = self._client.predict(
                job.image,
                model=state.arm.model,
                version=state.arm.version,
                options=job.options,
                request_id=job.request_id,
                timeout_s=job.remaining_s,
            )
        except ServerError as error:
            self._metrics.failures.labels(name, error.code).inc()
            (state.breaker.failed if error.code in OPENS_BREAKER else state.breaker.abandoned)()
            problem = problems.from_server_error(error, name)
            raise (_ArmIsDown(problem) if error.code in OTHER_ARM_MAY_HELP else problem) from error
        except RequestError:
            state.breaker.succeeded()
            raise
        except BaseException:
            state.breaker.abandoned()
            raise
        state.breaker.succeeded()
        return Answer(segmentation, name, Reason.OVERRIDE, (time.monotonic() - started) * 1000)


class _ArmState:
    def __init__(self, arm: Arm, in_flight: int) -> None:
        self.arm = arm
        self.breaker = Breaker()
        self.slots = threading.BoundedSemaphore(in_flight)


class _ArmIsDown(Exception):  # noqa: N818 — not an error yet: another arm may answer
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem
