"""The in-flight limit follows what the workers can do."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskserve.gateway.admission import Admission
from maskserve.gateway.readiness import Readiness
from maskserve.protos import wire
from maskserve.protos.types import Timings
from tests.gateway.conftest import settings_for
from tests.waiting import until

PREDICT = "/v1/predictions"


def door(cost_s=None, cap=100, share=0.5, clock=time.monotonic):
    admission = Admission(cap, share, clock)
    if cost_s is not None:
        admission.learn(Timings(total_ms=cost_s * 1000))
    return admission


def let_in(admission, remaining_s=10.0, workers=1):
    """How many come in before one is refused, and the refusal."""
    for count in range(1000):
        refusal = admission.enter(remaining_s, workers)
        if refusal:
            return count, refusal
    raise AssertionError("nobody was refused")


@pytest.mark.parametrize(("cost_s", "workers", "count"), [(1.0, 1, 5), (0.1, 1, 50), (1.0, 4, 20), (2.6, 1, 1)])
def test_as_many_come_in_as_the_workers_can_answer_in_half_of_the_deadline(cost_s, workers, count):
    assert let_in(door(cost_s), 10.0, workers)[0] == count


@given(
    st.floats(0.001, 100), st.integers(1, 8), st.floats(0.1, 60), st.floats(0.05, 1), st.integers(1, 40)
)  # fmt: skip
def test_a_lone_request_always_comes_in_and_whoever_else_does_can_be_answered_in_time(
    cost_s, workers, remaining_s, share, cap
):
    count, refusal = let_in(door(cost_s, cap, share), remaining_s, workers)
    assert 1 <= count <= cap
    if count > 1:
        assert cost_s * max(1, count / workers) <= remaining_s * share * (1 + 1e-9)
    assert refusal.retry_after_s >= 1
    if count < cap:
        assert refusal.expected_s > remaining_s * share


def test_a_refused_request_is_told_to_come_back_when_there_is_room():
    admission = door(1.0)
    count, refusal = let_in(admission, 10.0)
    assert (count, refusal.expected_s, refusal.retry_after_s) == (5, 6.0, 1)
    later = admission.enter(4.0, 1)  # it has less time left
    assert (later.expected_s, later.retry_after_s) == (6.0, 4)


def test_before_anything_is_known_the_cap_alone_holds():
    assert let_in(door(None, cap=3))[0] == 3
    assert let_in(door(5.0, cap=3), workers=None)[0] == 3


def test_the_cost_is_a_workers_share_of_the_batch_and_one_slow_answer_does_not_move_it():
    admission = door()
    for total_ms in (400, 400, 20_000, 400, 400):
        admission.learn(Timings(total_ms=total_ms, batch_size=4))
    assert admission.expected_s(1) == pytest.approx(0.1)


def test_the_cost_follows_a_model_that_has_become_slower():
    admission = door()
    for total_ms in [100] * 40 + [900] * 16:
        admission.learn(Timings(total_ms=total_ms))
    assert admission.expected_s(1) == pytest.approx(0.9)


def test_a_request_that_ran_out_of_time_counts_until_its_turn_is_over():
    now = [0.0]
    admission = door(1.0, clock=lambda: now[0])
    assert admission.enter(10.0, 1) is None
    admission.give_up(1)
    admission.leave()
    assert admission.expected_s(1) == 2.0  # it is computed first
    now[0] = 2.5
    assert admission.expected_s(1) == 1.0


def test_an_answer_makes_room():
    admission = door(1.0)
    let_in(admission)
    admission.leave()
    assert admission.enter(10.0, 1) is None


@pytest.fixture
def slow_app(make_app, fake_torchserve, photo):
    """Half a second a photo, as the worker itself says; a request may wait for 2.2. The fake is slower, so that a
    rush is one on a busy machine, too."""
    fake_torchserve.delay_s = 1.5
    fake_torchserve.says_total_ms = 500.0
    app = make_app(torchserve={"timeout_s": 4.4}, limits={"in_flight_per_arm": 16})
    client = app.test_client()
    assert client.post(f"{PREDICT}?arm=a", data=photo).status_code == 200
    client.get("/readyz")  # counts the workers
    return app


def rush(app, photo, count):
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(app.test_client().post(f"{PREDICT}?arm=a", data=photo)))
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_a_rush_is_let_in_as_far_as_the_arm_can_answer_it(slow_app, photo, fake_torchserve):
    answers = rush(slow_app, photo, 10)
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(answers) - len(refused) == 4  # in 2.2 s
    assert {answer.json["code"] for answer in refused} == {"too_many_requests"}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    assert all("would take about" in answer.json["detail"] for answer in refused)
    assert 'maskserve_shed_total{arm="a"} 6.0' in slow_app.test_client().get("/metrics").text


def test_more_workers_let_more_in(slow_app, photo, fake_torchserve):
    fake_torchserve.models[wire.MODEL_R50].workers = ["READY"] * 2
    time.sleep(1.1)  # readiness asks once a second
    slow_app.test_client().get("/readyz")
    assert [answer.status_code for answer in rush(slow_app, photo, 10)].count(200) == 8


def test_the_expected_time_is_a_metric(slow_app):
    assert 'maskserve_expected_seconds{arm="a"} 0.5' in slow_app.test_client().get("/metrics").text
    assert 'maskserve_expected_seconds{arm="b"} 0.0' in slow_app.test_client().get("/metrics").text


def test_workers_are_counted_beside_the_requests_and_not_for_each(fake_torchserve):
    answers = threading.Event()

    class Slow:
        asked = 0

        def model_status(self, model, version=""):
            Slow.asked += 1
            answers.wait(30)
            return type("Status", (), {"version": "1", "workers_ready": 3, "workers_total": 4})()

    readiness = Readiness(settings_for(fake_torchserve), Slow())
    assert readiness.workers("a") is None  # nothing has been answered yet: it would wait for 30 s
    answers.set()
    assert until(lambda: readiness.workers("a") is not None)
    assert [readiness.workers("a") for _ in range(100)] == [3] * 100
    assert Slow.asked == 2  # each arm once
