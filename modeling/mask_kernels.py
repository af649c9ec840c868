"""Mask probabilities ─▶ COCO RLE of the whole image, as a loop that numba compiles.

The same arithmetic as `maskserve.imaging.masks.paste_rle`, step for step and without "fastmath", so that ties fall
alike; it is the reference, and what runs where there is no numba. Loaded by `maskserve.modeling.compiled`.

Shape shorthand: M side of the head's mask, w, h the columns and rows of the image that a box can reach.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numba
import numpy as np

_compiled: Any = partial(numba.njit, nogil=True)
HALF = np.float32(0.5)
LONGEST = 13
"""Digits of a number: 5 of 64 bits each."""


def _cells(start: Any, stop: Any, length: int, cells: int) -> Any:
    """(first pixel that the box can reach, where this and the following ones lie among the head's cells, -1..cells)."""
    if not (math.isfinite(start) and math.isfinite(stop)):
        return 0, np.empty(0, np.float32)
    first = max(0, math.floor(start) - 1)
    last = max(first, min(length, math.ceil(stop) + 1))
    places = np.empty(last - first, np.float32)
    one, two, count = np.float32(1), np.float32(2), np.float32(cells)
    for index in range(last - first):
        place = (np.float32(first + index) + HALF - start) / (stop - start) * two - one
        cell = ((place + one) * count - one) / two
        # of a number and NaN (a box without an inside) the number
        places[index] = min(cell, count) if cell > -one else -one
    return first, places


cells_of = _compiled(error_model="numpy")(_cells)


def _first_from(places: Any, value: float, itself: bool) -> int:
    """Of ascending places the first above the value, or at it where `itself` counts."""
    low, high = 0, places.shape[0]
    while low < high:
        middle = (low + high) // 2
        if places[middle] > value or (itself and places[middle] == value):
            high = middle
        else:
            low = middle + 1
    return low


first_from = _compiled(_first_from)


def _turns(probs: Any, box: Any, height: int, width: int) -> Any:
    """Where foreground starts and stops in the image's column-major order, ascending."""
    rows, columns = probs.shape
    left, across = cells_of(box[0], box[2], width, columns)
    top, down = cells_of(box[1], box[3], height, rows)
    places = np.empty(across.shape[0] * (rows + 1), np.int64)
    found = 0
    line = np.zeros(rows + 2, np.float32)  # a column of the image at the rows of cells, the zeros around included
    for index in range(across.shape[0]):
        cell = math.floor(across[index])
        share = across[index] - np.float32(cell)
        for row in range(rows):
            before = probs[row, cell] if 0 <= cell < columns else np.float32(0)
            after = probs[row, cell + 1] if cell + 1 < columns else np.float32(0)
            line[row + 1] = before * (np.float32(1) - share) + after * share
        reached = 0
        for step in range(rows + 1):
            if (line[step] >= HALF) == (line[step + 1] >= HALF):
                continue
            low, high = np.float64(line[step]), np.float64(line[step + 1])
            at = step - 1 + (0.5 - low) / (high - low)
            # the first row on the other side: the threshold itself is inside
            reached = max(reached, first_from(down, at, high >= HALF))
            place = (index + left) * height + reached + top
            if found and places[found - 1] == place:
                found -= 1  # a start and a stop at one pixel are no run
            else:
                places[found] = place
                found += 1
    return places[:found]


turns_of = _compiled(error_model="numpy")(_turns)


def _written(code: Any, used: int, number: int) -> int:
    """`used` after the number: 5-bit digits, lowest first; bit 5: more follow; bit 4 of the last: the sign."""
    while True:
        digit = number & 0x1F
        number >>= 5
        more = number != (-1 if digit & 0x10 else 0)
        code[used] = digit + (0x20 if more else 0) + 48
        used += 1
        if not more:
            return used


written = _compiled(_written)


def _paste(probs: Any, box: Any, height: int, width: int) -> Any:
    """(the RLE's counts as ASCII, in the first bytes of a longer array; how many; the mask's area in px).

    Args:
        probs: float32 (M, M), 0..1.
        box: float32 (4,), xyxy in px of the image.
    """
    turns = turns_of(probs, box, height, width)
    code = np.empty(LONGEST * (turns.shape[0] + 1), np.uint8)
    used, area, start, last, last_but_one = 0, 0, 0, 0, 0
    for place in range(turns.shape[0] + 1):
        stop = turns[place] if place < turns.shape[0] else height * width
        run = stop - start
        if run == 0 and 0 < place == turns.shape[0]:
            break  # the image's last pixel is foreground
        # from the fourth number on, each is the difference to the last but one
        used = written(code, used, run - last_but_one if place > 2 else run)
        if place % 2:
            area += run
        start, last, last_but_one = stop, run, last
    return code, used, area


paste = _compiled(_paste)
