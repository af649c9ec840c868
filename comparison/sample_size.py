"""How many test photos would settle a difference, and what difference these photos could have shown.

    interval of the bootstrap ─▶ standard error with n photos ─▶ n × ((z₀.₉₇₅ + z₀.₈) · se / |difference|)²

The normal approximation for the mean of paired differences, two-sided at 95 % with 80 % power (Chow, Shao and Wang,
Sample Size Calculations in Clinical Research, ch. 3, one sample): the error shrinks with the square root of n. AP is no
mean of photos, so this is a guide to the order of magnitude; that is why it is rounded up to two digits.
"""

from __future__ import annotations

import math
from statistics import NormalDist

Z_INTERVAL = NormalDist().inv_cdf(0.975)
Z_POWER = NormalDist().inv_cdf(0.8)
MOST_PHOTOS = 10_000
"""More than that nobody labels to tell two models apart."""


def standard_error(difference: float, low: float, high: float) -> float:
    """Of a positive difference with that 95 % interval.

    Its half, or its reach towards zero where that is larger, as one photo of many objects can make it: what holds
    zero would otherwise be settled by fewer photos than there are.
    """
    return max((high - low) / 2, difference - low) / Z_INTERVAL


def detectable(error: float) -> float:
    """The difference that photos with this standard error show in four cases of five."""
    return (Z_INTERVAL + Z_POWER) * error


def photos_for(difference: float, error: float, photo_count: int) -> int | None:
    """About how many photos would show a difference of that size, when `photo_count` give that standard error.

    None: more than MOST_PHOTOS, or none for a difference of 0.
    """
    if difference == 0:
        return None
    needed = photo_count * (detectable(error) / abs(difference)) ** 2
    return _two_digits_up(math.ceil(needed)) if needed <= MOST_PHOTOS else None


def beyond(photo_count: int) -> int:
    """More than so many are needed where `photos_for` says none, and there are `photo_count`."""
    return max(MOST_PHOTOS, photo_count)


def _two_digits_up(count: int) -> int:
    """1,234 ─▶ 1,300."""
    step = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // step) * step
