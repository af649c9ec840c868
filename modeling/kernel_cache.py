"""What numba keeps on disk of compiled kernels.

    what cannot be read, or is another signature's   ─▶ compiled anew, and kept in its place
    what processes keep at the same time             ─▶ one after the other: numba reads, numbers and writes in steps
    what cannot be written                           ─▶ not kept

It is a help, for which no kernel may fail.
"""

from __future__ import annotations

import fcntl
import logging
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher
from numba.core.sigutils import normalize_signature

_LOG = logging.getLogger(__name__)


def keep(module: ModuleType) -> None:
    """What the kernels of `module` compile to is kept beside its source."""
    for kernel in vars(module).values():
        if isinstance(kernel, Dispatcher) and kernel.py_func.__module__ == module.__name__:
            with suppress(RuntimeError):  # no folder takes a file
                kernel._cache = KernelCache(kernel.py_func)  # type: ignore[attr-defined]


class KernelCache(FunctionCache):
    """numba's, of one kernel."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """See numba's: None has it compiled."""
        try:
            found = super().load_overload(sig, target_context)
        except Exception as error:  # noqa: BLE001  (pickle raises anything for a file that was cut off)
            _LOG.info("%s: compiled anew, for what was kept cannot be read: %r", self, error)
            with suppress(OSError):
                self.flush()  # nothing is ever kept beside an index that cannot be read
            return None
        args, _ = normalize_signature(sig)
        return found if found and tuple(found.signature.args) == tuple(args) else None

    def save_overload(self, sig: Any, data: Any) -> None:
        """See numba's."""
        try:
            with Path(self.cache_path, "lock").open("w") as lock:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
                super().save_overload(sig, data)
        except Exception as error:  # noqa: BLE001  (on a full disk the index may be unreadable, too)
            _say_not_kept(self.cache_path, getattr(error, "strerror", None) or repr(error))


@cache
def _say_not_kept(folder: str, reason: str) -> None:
    """Once, not for each kernel."""
    _LOG.warning("%s: compiled kernels cannot be kept, so that every worker compiles them anew: %s", folder, reason)
