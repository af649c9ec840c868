"""When requests are due."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskserve.load.schedule import closed_loop, open_loop


def arrivals(schedule):
    """All of them, asked late or early: it makes no difference to an open loop."""
    return list(iter(lambda: schedule(123.0), None))


def test_poisson_arrivals_have_the_rate_and_the_variance_of_independent_users():
    due = np.array(arrivals(open_loop(50, 400.0, seed=1)))
    per_second = np.bincount(due.astype(int), minlength=400)
    assert per_second.mean() == pytest.approx(50, rel=0.03)
    assert per_second.var() == pytest.approx(50, rel=0.25)


def test_a_seed_names_the_arrivals():
    first, again, other = (arrivals(open_loop(20, 5.0, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_two_rates_do_not_share_their_gaps():
    slow, fast = (arrivals(open_loop(rate, 5.0, seed=1))[0] * rate for rate in (20, 40))
    assert slow != pytest.approx(fast)


def test_constant_arrivals_are_evenly_spaced():
    assert arrivals(open_loop(4, 1.0, constant=True)) == [0, 0.25, 0.5, 0.75]


@given(st.floats(0.1, 500), st.floats(0.01, 5), st.integers(0, 9), st.booleans())
def test_arrivals_are_in_order_and_end(rate, until_s, seed, constant):
    due = arrivals(open_loop(rate, until_s, seed=seed, constant=constant))
    assert due == sorted(due)
    assert all(0 <= one < until_s for one in due)


def test_a_closed_loop_is_due_whenever_it_is_asked():
    schedule = closed_loop(2.0)
    assert [schedule(now) for now in (0.0, 1.5, 2.0, 3.0)] == [0.0, 1.5, None, None]
