"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(holds: Callable[[], object], at_most_s: float = 30) -> bool:
    """Whether `holds` became true in time."""
    deadline = time.monotonic() + at_most_s
    while not (held := bool(holds())) and time.monotonic() < deadline:
        time.sleep(0.01)
    return held
