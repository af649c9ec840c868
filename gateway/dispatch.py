"""A route ─▶ the first arm that can answer: admission, breaker, one deadline, fallback.

shed        the arm has more to do than it can answer in time (admission.py): 503 at once, no fallback, so that one
            arm's rush neither drowns the other nor bends the experiment
breaker     the arm failed several times in a row: nobody waits for it, the next arm answers
fallback    the arm is down, not loaded or has no worker: the next arm answers, and the answer says so.
            Not after `worker_died`: the client has already tried twice, so the photo may be what kills it
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from maskserve.client.errors import DeadlineExceeded, ServerError
from maskserve.gateway import problems
from maskserve.gateway.admission import Admission, Refusal
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
    """Thread-safe.

    Args:
        workers: how many workers of an arm are READY, without waiting; None when nobody knows.
    """

    def __init__(
        self, settings: Settings, client: Predicts, metrics: Metrics, workers: Callable[[str], int | None]
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._workers = workers
        limits = settings.limits
        self._arms = {
            name: _ArmState(arm, Admission(limits.in_flight_per_arm, limits.deadline_share))
            for name, arm in settings.arms.items()
        }
        for name in self._arms:
            metrics.expected.labels(name).set_function(partial(self.expected_s, name))
        # one for each place at an arm: whoever has been let in is asked for at once
        self._pool = ThreadPoolExecutor(max_workers=settings.places, thread_name_prefix="compare")

    def close(self) -> None:
        self._pool.shutdown()

    def expected_s(self, name: str) -> float:
        """How long an answer of this arm to a request that came now would take; 0 when that is not known."""
        return self._arms[name].admission.expected_s(self._workers(name))

    def predict(self, job: Job, route: Route) -> Answer:
        """The answer of the route's first arm that has one. Raises Problem."""
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
        """Both arms' answers, asked at the same time, or neither is asked. Raises Problem."""
        try:
            self._enter(job, left)
            try:
                self._enter(job, right)
            except BaseException:
                self._step_back(left)
                raise
            other = self._pool.submit(self._call, job, right)
            try:
                one = self._call(job, left)
            finally:
                other.exception()  # wait: nothing of this request goes on after its answer
            return one, other.result()
        except _ArmIsDown as error:
            raise error.problem from error

    def _ask(self, job: Job, name: str) -> Answer:
        self._enter(job, name)
        return self._call(job, name)

    def _enter(self, job: Job, name: str) -> None:
        """Takes a place at the arm, to be followed by `_call` or `_step_back`. Raises Problem, _ArmIsDown."""
        state = self._arms[name]
        if not job.remaining_s:
            raise problems.from_server_error(DeadlineExceeded("no time was left to ask the arm"), name)
        refusal = state.admission.enter(job.remaining_s, self._workers(name))
        if refusal:
            self._metrics.shed.labels(name).inc()
            raise problems.unavailable("too_many_requests", _why_shed(refusal), name, refusal.retry_after_s)
        # TorchServe lets requests wait for a worker that starts again; a probe would, for all of its deadline
        lacks_worker = state.breaker.is_open and self._workers(name) == 0
        if lacks_worker or not state.breaker.allow():
            state.admission.leave()
            text = "This arm failed several times in a row and is left alone for a moment."
            raise _ArmIsDown(problems.unavailable("arm_unavailable", text, name))

    def _step_back(self, name: str) -> None:
        self._arms[name].breaker.abandoned()
        self._arms[name].admission.leave()

    def _call(self, job: Job, name: str) -> Answer:
        state = self._arms[name]
        try:
            with self._metrics.in_flight.labels(name).track_inprogress():
                return self._predict(job, name, state)
        finally:
            state.admission.leave()

    def _predict(self, job: Job, name: str, state: _ArmState) -> Answer:
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
            if error.code == "timeout":
                state.admission.give_up(self._workers(name))
            (state.breaker.failed if error.code in OPENS_BREAKER else state.breaker.abandoned)()
            problem = problems.from_server_error(error, name)
            raise (_ArmIsDown(problem) if error.code in OTHER_ARM_MAY_HELP else problem) from error
        except RequestError as error:
            state.breaker.succeeded()
            problem = problems.from_request_error(error, name)
            if problem.more:  # the arm's failure
                self._metrics.failures.labels(name, problem.code).inc()
            raise problem from error
        except BaseException:
            state.breaker.abandoned()
            raise
        state.breaker.succeeded()
        state.admission.learn(segmentation.timings)
        return Answer(segmentation, name, Reason.OVERRIDE, (time.monotonic() - started) * 1000)


class _ArmState:
    def __init__(self, arm: Arm, admission: Admission) -> None:
        self.arm = arm
        self.admission = admission
        self.breaker = Breaker()


def _why_shed(refusal: Refusal) -> str:
    if refusal.expected_s is None:
        return "This arm has all the requests that it may have."
    return f"This arm has so much to do that an answer would take about {refusal.expected_s:.0f} s."


class _ArmIsDown(Exception):  # noqa: N818 — not an error yet: another arm may answer
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem
