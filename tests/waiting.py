"""Waiting for what another thread or process does, and for its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import psutil


def until(holds: Callable[[], object], at_most_s: float = 30) -> bool:
    """Whether `holds` became true in time."""
    deadline = time.monotonic() + at_most_s
    while not (held := bool(holds())) and time.monotonic() < deadline:
        time.sleep(0.01)
    return held


def ended(processes: Iterable[psutil.Process]) -> bool:
    """Whether none runs any more; those whose parent has gone are kept as zombies until the system looks at them."""
    return not any(map(_runs, processes))


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
