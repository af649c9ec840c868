"""Which arms have a READY worker, asked of TorchServe's management port at most once a second.

TorchServe's own Ping says "Healthy" while no worker is loaded, so each arm's workers are counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from maskserve.client.errors import ServerError
from maskserve.gateway.problems import SERVER_TEXTS
from maskserve.gateway.settings import Settings

MAX_AGE_S = 1.0
STALE_S = 4.0
WORKERS_AGE_S = 5.0
"""Workers come and go seldom: while requests arrive they are counted so often, beside the requests; where an arm has
none, as often as may be."""


class Status(Protocol):
    """What `maskserve.client.ModelStatus` has."""

    @property
    def version(self) -> str: ...
    @property
    def workers_ready(self) -> int: ...
    @property
    def workers_total(self) -> int: ...


class SaysStatus(Protocol):
    """What the gateway needs of `maskserve.client.Client` to know who is ready."""

    def model_status(self, model: str, version: str = "") -> Status: ...


@dataclass(frozen=True, slots=True)
class ArmStatus:
    arm: str
    model: str
    version: str
    workers_ready: int
    workers_total: int
    why_not: str = ""
    """In words for a person; "" for a ready arm."""

    @property
    def is_ready(self) -> bool:
        return not self.why_not


class Readiness:
    """Thread-safe; concurrent callers share one answer, and do not wait long for a TorchServe that hangs."""

    def __init__(self, settings: Settings, client: SaysStatus, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._asking = threading.Lock()
        self._known_at = -WORKERS_AGE_S
        self._known: tuple[ArmStatus, ...] = ()

    def statuses(self) -> tuple[ArmStatus, ...]:
        """All arms, in the settings' order, at most `MAX_AGE_S` old, or `STALE_S` while TorchServe is slow to say."""
        if self._asking.acquire(timeout=MAX_AGE_S):
            try:
                if self._clock() - self._known_at >= MAX_AGE_S:
                    self._known = tuple(self._ask(arm) for arm in self._settings.arms)
                    self._known_at = self._clock()
            finally:
                self._asking.release()
        if self._clock() - self._known_at >= STALE_S:
            return tuple(self._silent(arm) for arm in self._settings.arms)
        return self._known

    def workers(self, arm: str) -> int | None:
        """The arm's READY workers as last heard; None when TorchServe never said. Never waits."""
        status = next((one for one in self._known if one.arm == arm and one.workers_total), None)
        age_s = WORKERS_AGE_S if status and status.workers_ready else MAX_AGE_S
        if self._clock() - self._known_at >= age_s and not self._asking.locked():
            threading.Thread(target=self.statuses, name="count-workers", daemon=True).start()
        return status.workers_ready if status else None

    def missing(self) -> tuple[ArmStatus, ...]:
        """The required arms that are not ready."""
        return tuple(one for one in self.statuses() if self._settings.arms[one.arm].required and not one.is_ready)

    def _ask(self, arm: str) -> ArmStatus:
        wanted = self._settings.arms[arm]
        try:
            status = self._client.model_status(wanted.model, wanted.version)
        except ServerError as error:
            why = SERVER_TEXTS.get(error.code, (0, "The model server's answer was not understood."))[1]
            return ArmStatus(arm, wanted.model, wanted.version, 0, 0, why)
        why = "" if status.workers_ready else f"None of its {status.workers_total} workers is ready yet."
        return ArmStatus(arm, wanted.model, status.version, status.workers_ready, status.workers_total, why)

    def _silent(self, arm: str) -> ArmStatus:
        wanted = self._settings.arms[arm]
        return ArmStatus(arm, wanted.model, wanted.version, 0, 0, SERVER_TEXTS["timeout"][1])
