"""Requests leave when they are due."""

from __future__ import annotations

import threading
import time
from collections import Counter
from itertools import pairwise

import pytest

from maskserve.load.run import record
from maskserve.load.schedule import closed_loop, open_loop
from maskserve.load.sending import Outcome

ANSWERED = Outcome("answered", "a")


def test_a_slow_server_does_not_slow_the_sending():
    """Every answer takes longer than the whole schedule, and still all requests are sent in time."""

    def slow(_body):
        time.sleep(1.5)
        return ANSWERED

    recording = record(slow, [b"x"], open_loop(40, 1.0, constant=True), threads=50)
    assert len(recording.samples) == 40
    assert max(sample.sent_s for sample in recording.samples) < min(sample.done_s for sample in recording.samples)
    assert recording.most_in_flight == 40


def test_when_all_threads_wait_requests_leave_late_and_the_samples_say_so():
    def slow(_body):
        time.sleep(0.2)
        return ANSWERED

    recording = record(slow, [b"x"], open_loop(20, 0.5, constant=True), threads=1)
    assert len(recording.samples) == 10
    last = recording.samples[-1]
    assert last.sent_s - last.due_s > 1.0
    assert last.latency_s > last.sent_s - last.due_s  # from when it was due, not from when it was sent


def test_bodies_are_sent_in_turn():
    sent = []
    record(lambda body: sent.append(body) or ANSWERED, [b"1", b"2", b"3"], open_loop(900, 0.1, seed=3), threads=1)
    assert sent[:4] == [b"1", b"2", b"3", b"1"]


def test_what_ends_a_thread_ends_the_run():
    """Its requests would be missing, and nobody would know."""
    bodies = []

    def fail_third(body):
        bodies.append(body)
        if len(bodies) == 3:
            raise RuntimeError("a bug")
        return ANSWERED

    start = time.monotonic()
    with pytest.raises(RuntimeError, match="a bug"):
        record(fail_third, [b"x"], open_loop(40, 10.0, constant=True), threads=4)
    assert time.monotonic() - start < 5


def test_a_closed_loop_keeps_so_many_requests_under_way():
    running, seen = Counter(), []
    lock = threading.Lock()

    def answer(_body):
        with lock:
            running["now"] += 1
            seen.append(running["now"])
        time.sleep(0.01)
        with lock:
            running["now"] -= 1
        return ANSWERED

    recording = record(answer, [b"x"], closed_loop(0.5), threads=4)
    assert max(seen) == recording.most_in_flight == 4
    assert all(sample.due_s < 0.5 for sample in recording.samples)


def test_a_refused_user_of_a_closed_loop_stays_away_as_long_as_was_said():
    calls = []

    def refuse(_body):
        calls.append(time.monotonic())
        return Outcome("shed", "a", "too_many_requests", retry_after_s=0.3)

    record(refuse, [b"x"], closed_loop(1.0), threads=1, waits_after_shed=True)
    assert 2 <= len(calls) <= 4
    assert min(later - earlier for earlier, later in pairwise(calls)) >= 0.29


def test_ctrl_c_keeps_what_was_measured_and_waits_for_nobody():
    hang, released = threading.Event(), threading.Event()

    def answer(body):
        if body == b"hangs":
            hang.wait(30)
            released.set()
        return ANSWERED

    def press(elapsed_s, _in_flight):
        if elapsed_s > 0.5:
            raise KeyboardInterrupt

    schedule = open_loop(20, 60.0, constant=True)
    recording = record(answer, [b"x", b"hangs"], schedule, threads=30, abort=hang.set, on_look=press)
    assert released.is_set()
    assert 0.5 < recording.stopped_s < 30
    assert 3 <= recording.unanswered <= len(recording.samples) + 1
    assert all(sample.outcome.kind == "answered" for sample in recording.samples)


@pytest.mark.parametrize(
    ("schedule", "due"),
    [(open_loop(100, 60.0, constant=True), lambda stopped_s: 100 * stopped_s), (closed_loop(60.0), lambda _: 2)],
    ids=["open", "closed"],
)
def test_what_was_due_and_found_no_free_thread_is_given_up_at_ctrl_c(schedule, due):
    hang = threading.Event()

    def answer(_body):
        hang.wait(30)
        return ANSWERED

    def press(elapsed_s, _in_flight):
        if elapsed_s > 0.5:
            raise KeyboardInterrupt

    recording = record(answer, [b"x"], schedule, threads=2, abort=hang.set, on_look=press)
    assert not recording.samples
    assert recording.unanswered == pytest.approx(due(recording.stopped_s), abs=1)
