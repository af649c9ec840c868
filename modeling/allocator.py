"""glibc told to keep the memory of one photo for the next.

Each activation is 60 to 250 MB at 800 px. By default glibc asks the kernel for each of them anew, which clears page by
page what was just given back: a fifth to a quarter of the time of a photo (docs/benchmarks.md).
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_NEVER_TRIM_BYTES = 2**31 - 1
_GROWTH_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Nothing that was freed is given back, and big blocks come from the heap. For a process that does one thing.

    The process stays as big as its biggest photo made it. Returns False where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(
        (
            mallopt(_M_MMAP_MAX, 0),
            mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM_BYTES),
            mallopt(_M_TOP_PAD, _GROWTH_BYTES),
        )
    )
