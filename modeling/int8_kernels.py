"""Numbers ─▶ uint8 in units of their rows. Loaded by `maskserve.modeling.compiled`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numba

from maskserve.modeling.lanes import round_line

_compiled: Any = partial(numba.njit, nogil=True, error_model="numpy")


def _round_rows(x: Any, out: Any, units: Any, first: int, last: int) -> None:
    """Rows `first` to `last` of x (R, C), float32 or bfloat16's bits ─▶ `out`, around 128, and what 1 stands for."""
    for row in range(first, last):
        units[row] = round_line(x, row * x.shape[1], x.shape[1], out, row * x.shape[1])


round_rows = _compiled(_round_rows)
