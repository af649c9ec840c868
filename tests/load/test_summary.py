"""Samples ─▶ rates and percentiles."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from maskserve.load.run import Recording, Sample
from maskserve.load.sending import Outcome
from maskserve.load.summary import percentile, summarise

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=300)


def recording(*samples: Sample, **more):
    return Recording(samples, most_in_flight=1, **more)


def sample(due_s=1.0, took_s=0.1, outcome=None, late_s=0.0):
    return Sample(due_s, due_s + late_s, due_s + took_s, outcome or Outcome("answered", "a"))


@given(VALUES, st.floats(0.5, 100))
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(values, percent):
    found = percentile(values, percent)
    share = percent / 100 * len(values) * (1 - 1e-12)  # percent of n, but for rounding
    assert found in values
    assert sum(value <= found for value in values) >= share
    assert sum(value < found for value in values) <= share + 1e-9 or found == min(values)


@given(VALUES)
def test_percentiles_rise_to_the_largest_value(values):
    found = [percentile(values, percent) for percent in (1, 50, 95, 99, 100)]
    assert found == sorted(found)
    assert found[-1] == max(values)


def test_of_few_values_the_99th_percentile_is_the_largest():
    assert percentile([1.0, 2.0, 3.0], 99) == 3.0
    assert percentile([], 50) is None


def test_a_row_has_the_percentiles_that_its_columns_name():
    row = summarise(
        "rate", 4.0, recording(*(sample(took_s=ms / 1000) for ms in range(1, 201))), warm_up_s=0, until_s=5
    ).everybody
    assert [round(ms, 6) for ms in (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms)] == [100, 190, 198, 200]


def test_refused_failed_and_late_requests_are_counted_apart_and_never_as_latency():
    step = summarise(
        "rate",
        4.0,
        recording(
            sample(took_s=0.1),
            sample(took_s=0.3, outcome=Outcome("answered", "b")),
            sample(took_s=0.001, outcome=Outcome("shed", "a", "too_many_requests")),
            sample(took_s=60.0, outcome=Outcome("timeout", code="timeout")),
            sample(took_s=9.0, outcome=Outcome("error", "b", "handler_failed")),
        ),
        warm_up_s=1.0,
        until_s=3.0,
    )
    everybody, a, b = step.rows
    assert (everybody.arm, a.arm, b.arm) == ("all", "a", "b")
    assert (everybody.requests, everybody.answered, everybody.shed, everybody.timeouts) == (5, 2, 1, 1)
    assert everybody.errors == {"handler_failed": 1}
    assert round(everybody.max_ms) == 300
    assert (a.requests, a.answered, a.shed, a.failed) == (2, 1, 1, 0)
    assert (b.requests, b.answered, b.shed, b.failed) == (2, 1, 0, 1)
    assert everybody.answered_per_s == 1.0  # two in two seconds


def test_the_warm_up_is_not_counted_but_its_late_answers_are_throughput():
    early = sample(due_s=0.5, took_s=1.0)  # answered inside the window
    step = summarise("rate", 1.0, recording(early, sample(due_s=2.0)), warm_up_s=1.0, until_s=5.0)
    assert step.everybody.requests == 1
    assert step.everybody.answered_per_s == 2 / 4


def test_latency_counts_from_the_moment_the_request_was_due():
    step = summarise("rate", 1.0, recording(sample(took_s=0.5, late_s=0.4)), warm_up_s=0.0, until_s=5.0)
    assert round(step.everybody.p50_ms) == 500
    assert round(step.late_p99_ms) == 400


def test_after_ctrl_c_the_window_ends_there():
    stopped = recording(sample(due_s=1.5), stopped_s=2.0, unanswered=3)
    step = summarise("rate", 1.0, stopped, warm_up_s=1.0, until_s=30.0)
    assert (step.seconds, step.everybody.answered_per_s, step.unanswered) == (1.0, 1.0, 3)
    nothing = summarise("rate", 1.0, recording(stopped_s=0.5), warm_up_s=1.0, until_s=30.0)
    assert (nothing.seconds, nothing.everybody.answered_per_s) == (0.0, 0.0)
