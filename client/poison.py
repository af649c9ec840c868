"""Photos in whose company a worker died: after two deaths within ten minutes a photo is not sent again."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MAX_DEATHS = 2
FORGET_S = 600.0
_REMEMBERED = 1000
_TOGETHER_S = 1.0
"""A worker's requests hear of its end one after the other; no worker starts again in that time."""


class Poison:
    """Counts deaths by model and photo; thread-safe. A photo is only hashed while there are deaths to remember."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._deaths: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

    def died(self, model: str, image: bytes, sent_at: float) -> None:
        """A worker died while it had this photo, sent at `sent_at` on the clock. Of copies in one batch one counts."""
        key = _key(model, image)
        with self._lock:
            now, died_at = self._clock(), self._deaths.get(key, (0, -math.inf))[1]
            if sent_at <= died_at and now - died_at < _TOGETHER_S:
                return
            self._deaths[key] = (self._count(key) + 1, now)
            self._deaths.move_to_end(key)
            if len(self._deaths) > _REMEMBERED:
                self._deaths.popitem(last=False)

    def answered(self, model: str, image: bytes) -> None:
        """The photo is innocent: it was answered."""
        if self._deaths:
            with self._lock:
                self._deaths.pop(_key(model, image), None)

    def is_poison(self, model: str, image: bytes) -> bool:
        """Whether the photo must not be sent (again) now."""
        if not self._deaths:
            return False
        with self._lock:
            return self._count(_key(model, image)) >= MAX_DEATHS

    def _count(self, key: bytes) -> int:
        count, at = self._deaths.get(key, (0, 0.0))
        return count if self._clock() - at < FORGET_S else 0


def _key(model: str, image: bytes) -> bytes:
    return hashlib.sha256(model.encode() + b"\0" + image).digest()
