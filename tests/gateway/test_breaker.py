"""When an arm is left alone, and when it is tried again."""

from __future__ import annotations

import pytest

from maskserve.gateway.breaker import FAILURES_TO_OPEN, OPEN_S, Breaker


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def opened(clock):
    breaker = Breaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.allow()
        breaker.failed()
    return breaker


def test_it_opens_after_five_failures_in_a_row(opened):
    assert FAILURES_TO_OPEN == 5
    assert opened.is_open
    assert not opened.allow()


def test_a_success_in_between_starts_the_count_again(clock):
    breaker = Breaker(clock)
    for _ in range(2):
        for _ in range(FAILURES_TO_OPEN - 1):
            breaker.failed()
        assert breaker.allow()
        breaker.succeeded()


def test_half_open_lets_one_request_through(opened, clock):
    clock.now_s += OPEN_S
    assert [opened.allow() for _ in range(3)] == [True, False, False]


def test_a_good_probe_closes_it(opened, clock):
    clock.now_s += OPEN_S
    assert opened.allow()
    opened.succeeded()
    assert [opened.allow() for _ in range(3)] == [True, True, True]


def test_a_failed_probe_opens_it_again(opened, clock):
    clock.now_s += OPEN_S
    assert opened.allow()
    opened.failed()
    assert not opened.allow()
    clock.now_s += OPEN_S
    assert opened.allow()


def test_a_probe_that_says_nothing_lets_the_next_one_try(opened, clock):
    clock.now_s += OPEN_S
    assert opened.allow()
    opened.abandoned()
    assert opened.allow()
