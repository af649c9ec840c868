"""Which arm a user gets."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskserve.gateway.routing import Reason, Route, rank, route

ARM_NAMES = st.text("abcdefgh-_0", min_size=1, max_size=5)
WEIGHTS = st.dictionaries(ARM_NAMES, st.floats(0.001, 1000), min_size=1, max_size=5)
USERS = st.text(min_size=1, max_size=30)


@given(WEIGHTS, USERS, st.floats(1, 100), st.data())
def test_growing_an_arms_weight_moves_nobody_out_of_it(weights, user, factor, data):
    before = rank(weights, "salt", user)[0]
    grown = data.draw(st.sampled_from(sorted(weights)))
    after = rank(weights | {grown: weights[grown] * factor}, "salt", user)[0]
    assert after in (before, grown)


@given(WEIGHTS, USERS, ARM_NAMES)
def test_a_new_arm_moves_nobody_between_the_old_ones(weights, user, name):
    before = rank(weights, "salt", user)[0]
    after = rank({name: 1.0} | weights, "salt", user)[0]
    assert after in (before, name)


@given(WEIGHTS, USERS, st.text(max_size=5))
def test_a_user_always_gets_the_same_arm(weights, user, salt):
    first = route(weights, salt, user, known=True)
    reordered = dict(reversed(weights.items()))
    assert route(reordered, salt, user, known=True) == first
    assert first.reason is Reason.STICKY


@given(WEIGHTS, USERS)
def test_an_arm_of_weight_zero_gets_no_traffic(weights, user):
    assert "zero" not in route(weights | {"zero": 0.0}, "salt", user, known=False).arms


def test_users_are_dealt_out_by_weight():
    weights = {"a": 6, "b": 3, "c": 1}
    counts = Counter(rank(weights, "salt", f"user-{number}")[0] for number in range(8000))
    assert {arm: count / 8000 for arm, count in counts.items()} == pytest.approx(
        {"a": 0.6, "b": 0.3, "c": 0.1}, abs=0.015
    )


def test_another_release_moves_nobody():
    users = [f"user-{number}" for number in range(12)]
    assert "".join(rank({"a": 1, "b": 1, "c": 1}, "salt", user)[0] for user in users) == "acaccaabbbcc"


def test_another_salt_deals_the_users_anew():
    users = [f"user-{number}" for number in range(2000)]
    moved = sum(rank({"a": 1, "b": 1}, "one", user) != rank({"a": 1, "b": 1}, "two", user) for user in users)
    assert moved / len(users) == pytest.approx(0.5, abs=0.05)


def test_salt_arm_and_user_do_not_run_into_each_other():
    assert rank({"a": 1, "b": 1, "c": 1, "d": 1}, "x", "yz") != rank({"a": 1, "b": 1, "c": 1, "d": 1}, "xy", "z")


def test_a_user_id_may_hold_any_bytes():
    assert rank({"a": 1.0}, "salt", b"\xff\xfe".decode("utf-8", "surrogateescape")) == ["a"]


def test_an_unknown_user_is_weighted_and_has_the_others_as_fallback():
    found = route({"a": 1, "b": 1}, "salt", "someone", known=False)
    assert (found.reason, sorted(found.arms)) == (Reason.WEIGHTED, ["a", "b"])


def test_without_fallback_only_one_arm_is_asked():
    assert len(route({"a": 1, "b": 1}, "salt", "someone", known=True, fallback=False).arms) == 1


def test_an_override_is_asked_alone_and_reaches_an_arm_of_weight_zero():
    assert route({"a": 1, "b": 0}, "salt", "someone", known=True, override="b") == Route(("b",), Reason.OVERRIDE)


def test_an_override_falls_back_only_when_the_settings_say_so():
    found = route({"a": 1, "b": 1}, "salt", "someone", known=True, override="b", fallback_on_override=True)
    assert found == Route(("b", "a"), Reason.OVERRIDE)


def test_an_override_that_is_no_arm_is_a_key_error():
    with pytest.raises(KeyError):
        route({"a": 1}, "salt", "someone", known=True, override="z")
