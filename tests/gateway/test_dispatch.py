"""What a call that fails says about its arm."""

from __future__ import annotations

import time

import pytest

from maskserve.client.errors import DeadlineExceeded, HandlerFailed
from maskserve.gateway.breaker import FAILURES_TO_OPEN
from maskserve.gateway.dispatch import Dispatcher, Job
from maskserve.gateway.metrics import Metrics
from maskserve.gateway.problems import Problem
from maskserve.gateway.routing import Reason, Route
from maskserve.gateway.settings import Settings
from maskserve.protos.errors import RequestError
from maskserve.protos.types import ErrorCode, SegmentOptions, Timings


class Failing:
    """A client whose every call raises the same."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def predict(self, *_args, **_options):
        raise self.error


def ask_a(error):
    """The gateway's part behind the routes, after one request to arm a that failed as a probe."""
    dispatcher = Dispatcher(Settings(), Failing(error), Metrics(), lambda _arm: 1)
    arm = dispatcher._arms["a"]
    arm.admission.learn(Timings(total_ms=100_000))
    for _ in range(FAILURES_TO_OPEN):
        arm.breaker.failed()
    arm.breaker._retry_at = 0.0
    with pytest.raises(Exception):  # noqa: B017 — of whatever kind
        dispatcher.predict(Job(b"", SegmentOptions(), "", time.monotonic() + 600), Route(("a",), Reason.OVERRIDE))
    return dispatcher, arm


@pytest.mark.parametrize(
    "error", [RequestError(ErrorCode.IMAGE_UNREADABLE, "cut off"), HandlerFailed("a bug"), ValueError("our own bug")]
)
def test_a_probe_that_its_photo_fails_lets_the_next_one_try(error):
    dispatcher, arm = ask_a(error)
    assert arm.breaker.allow()
    assert dispatcher.expected_s("a") == 100  # its place is free again


def test_a_photo_that_was_given_up_still_counts_as_work_of_its_arm():
    dispatcher, arm = ask_a(DeadlineExceeded("no answer"))
    assert not arm.breaker.allow()
    assert dispatcher.expected_s("a") == 200


def test_nothing_of_a_comparison_goes_on_after_its_answer():
    done = []

    class SlowB:
        def predict(self, *_args, model, **_options):
            time.sleep(0.2 * (model == Settings().arms["b"].model))
            done.append(model)
            raise HandlerFailed("a bug")

    dispatcher = Dispatcher(Settings(), SlowB(), Metrics(), lambda _arm: 1)
    with pytest.raises(Problem):
        dispatcher.compare(Job(b"", SegmentOptions(), "", time.monotonic() + 600), "a", "b")
    assert len(done) == 2
