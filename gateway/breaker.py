"""A circuit breaker for one arm: after several failures in a row nobody waits for it any more.

closed ──5 failures in a row──▶ open ──1.5 s later──▶ half open: one request probes ──▶ closed, or open again
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

FAILURES_TO_OPEN = 5
OPEN_S = 1.5


class Breaker:
    """Thread-safe. Each `allow()` that says True is followed by one `succeeded()`, `failed()` or `abandoned()`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._retry_at: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        return self._retry_at is not None

    def allow(self) -> bool:
        """Whether a request may be sent now; while half open only one may."""
        with self._lock:
            if self._retry_at is None:
                return True
            if self._probing or self._clock() < self._retry_at:
                return False
            self._probing = True
            return True

    def succeeded(self) -> None:
        with self._lock:
            self._failures, self._retry_at, self._probing = 0, None, False

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            self._probing = False
            if self._failures >= FAILURES_TO_OPEN:
                self._retry_at = self._clock() + OPEN_S

    def abandoned(self) -> None:
        """The request says nothing about the arm."""
        with self._lock:
            self._probing = False
