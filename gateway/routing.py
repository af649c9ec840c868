"""user id, weights, salt ─▶ the arm that answers, and why. Pure.

Weighted rendezvous hashing: every arm draws a number u in (0, 1) for this user, from a salted hash, and the arm with
the highest -weight / ln(u) wins. An arm wins with probability weight / sum(weights), and its score depends on its own
weight only, so growing an arm's weight only moves users *into* that arm, and adding an arm takes users from the
others without moving anybody between those. (Thaler & Ravishankar 1998, "Using name-based
mappings to increase hit rates"; weights as in Schindelhauer & Schomaker 2005, "Weighted distributed hash tables".)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why this arm answered."""

    WEIGHTED = "weighted"
    """A user whom nobody knew: an arm by weight."""
    STICKY = "sticky"
    """A user with an id: the arm that this id always gets."""
    OVERRIDE = "override"
    """The request named the arm."""
    FALLBACK = "fallback"
    """The chosen arm was down; this one answered instead."""


@dataclass(frozen=True, slots=True)
class Route:
    """Which arms to ask, in this order, and why the first one is the first."""

    arms: tuple[str, ...]
    reason: Reason


def route(
    weights: Mapping[str, float],
    salt: str,
    user_id: str,
    *,
    known: bool,
    override: str = "",
    fallback: bool = True,
    fallback_on_override: bool = False,
) -> Route:
    """The arms for one request.

    Args:
        weights: arm -> share, at least one above 0; arms of weight 0 are reached by `override` only.
        user_id: whom to stick to; a fresh random one when the user has none, and then `known` is False.
        override: the arm that the request names, or "".
        fallback: whether the other arms are to be asked when the first is down.
    Raises: KeyError when `override` is no arm.
    """
    ranked = rank(weights, salt, user_id)
    if override:
        others = [arm for arm in ranked if arm != override] if fallback_on_override else []
        weights[override]  # an arm of this name?
        return Route((override, *others), Reason.OVERRIDE)
    return Route(tuple(ranked if fallback else ranked[:1]), Reason.STICKY if known else Reason.WEIGHTED)


def rank(weights: Mapping[str, float], salt: str, user_id: str) -> list[str]:
    """The arms with a weight above 0, this user's own first."""
    scores = {arm: -weight / math.log(_draw(salt, arm, user_id)) for arm, weight in weights.items() if weight > 0}
    return sorted(scores, key=lambda arm: (-scores[arm], arm))


def _draw(salt: str, arm: str, user_id: str) -> float:
    """A number in the open interval (0, 1), uniform over users, independent between arms."""
    # surrogateescape: header values may hold any byte
    parts = [text.encode("utf-8", "surrogateescape") for text in (salt, arm, user_id)]
    digest = hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()
    # 52 bits and a half step: neither 0.0 nor, after rounding, 1.0
    return ((int.from_bytes(digest[:8], "big") >> 12) + 0.5) / 2**52
