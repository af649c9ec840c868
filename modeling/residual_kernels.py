"""An inverted residual, one row of its answer after the other. Loaded by `maskserve.modeling.compiled`.

    rows of x ─▶ expanded: three rows, float32 ─▶ depthwise 3×3: one row ─▶ projected (+ x) ─▶ a row of the answer

Hidden maps have six times the channels of x. Here there are never more than four rows of them, which stay in the core's
cache; and the three convolutions are one call.

Arrays are flat, channels last, of float32 or of bfloat16's bits (uint16). Weights lie in panels: of VECTORS · 16
channels, for each number that is multiplied (in bfloat16 for each pair) those of the channels. The last panel begins
so many channels before the end; what it shares with the one before is calculated twice. Likewise the last pixels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numba
import numpy as np

from maskserve.modeling.lanes import LANES, load, store
from maskserve.modeling.tiles import TAPS, cut, depthwise_of, plus, products_of, put

_compiled: Any = partial(numba.njit, nogil=True, error_model="numpy")
PIXELS, VECTORS, SPOTS = 8, 2, 4
"""Of a tile of products; pixels of a depthwise tile."""
WIDTH = VECTORS * LANES
"""Channels of a panel."""
products, every_pixel, every_second = products_of(PIXELS, VECTORS), depthwise_of(SPOTS, 1), depthwise_of(SPOTS, 2)


def _panel(number: int, channels: int) -> Any:
    """(first channel, channels from its first 16 to the next)"""
    return max(0, min(number * WIDTH, channels - WIDTH)), min(LANES, channels - LANES)


panel = _compiled(_panel)


def _expand_row(
    x: Any, start: int, steps: Any, counts: Any, layer: Any, width: int, ring: Any, target: int, pitch: int
) -> None:
    """A row of the hidden map, cut to 0 … 6 ─▶ ring, 16 channels of all its pixels after the other 16.

    Args:
        start, steps, counts: of the row's first pixel, see `maskserve.modeling.tiles.products_of`.
        layer: weights and bias.
        pitch: from 16 channels of the ring to the next 16.
    """
    weights, bias = layer
    channels = len(bias)
    numbers = counts[0] * counts[1] * WIDTH * (4 // x.itemsize)
    for number in range(-(-channels // WIDTH)):
        first, beside = panel(number, channels)
        shift = load(bias, first, 0), load(bias, first + beside, 0)
        place = target + first // LANES * pitch
        for index in range(0, width, PIXELS):
            pixel = min(index, width - PIXELS)
            tile = products(x, start + pixel * steps[0], steps, counts, weights, number * numbers, shift)
            put(cut(tile), ring, place + pixel * LANES, (LANES, beside // LANES * pitch))


expand_row = _compiled(_expand_row)


def _depthwise_row(ring: Any, rows: Any, pitch: int, stride: int, layer: Any, width: int, out: Any) -> None:
    """A row of what is projected, cut to 0 … 6, of three of the ring."""
    taps, bias = layer
    channels = len(bias)
    for channel in range(0, channels, LANES):
        shift, away = load(bias, channel, 0), channel // LANES * pitch
        for index in range(0, width, SPOTS):
            pixel = min(index, width - SPOTS)
            at = away + pixel * stride * LANES
            seen = rows[0] + at, rows[1] + at, rows[2] + at
            if stride == 1:
                tile = every_pixel(ring, seen, taps, channel, channels, shift)
            else:
                tile = every_second(ring, seen, taps, channel, channels, shift)
            put(cut(tile), out, pixel * channels + channel, (channels, 0))


depthwise_row = _compiled(_depthwise_row)


def _project_row(middle: Any, hidden: int, layer: Any, width: int, x: Any, adds: bool, out: Any, place: int) -> None:
    """A row of the answer ─▶ out from `place` on, added to what lies there in x if it `adds`."""
    weights, bias = layer
    channels, counts = len(bias), (1, hidden * middle.itemsize // 4)
    for number in range(-(-channels // WIDTH)):
        first, beside = panel(number, channels)
        shift, start = (load(bias, first, 0), load(bias, first + beside, 0)), number * hidden * WIDTH
        for index in range(0, width, PIXELS):
            pixel = min(index, width - PIXELS)
            tile = products(middle, pixel * hidden, (hidden, 0), counts, weights, start, shift)
            at = place + pixel * channels + first
            if adds:
                tile = plus(tile, x, at, (channels, beside))
            put(tile, out, at, (channels, beside))


project_row = _compiled(_project_row)


def _lines_around(x: Any, size: Any, image: int, row: int, out: Any) -> None:
    """The rows of x around that one, each with a pixel of zeros before it and two behind ─▶ out."""
    _, height, width, channels = size
    line = (width + TAPS) * channels
    for index in range(TAPS):
        y, target = row - 1 + index, index * line + channels
        start = (image * height + y) * width * channels
        if 0 <= y < height:
            for number in range(0, width * channels, LANES):
                away = min(number, width * channels - LANES)
                store(out, target + away, load(x, start + away, 0))
        else:
            out[target : target + width * channels] = 0


lines_around = _compiled(_lines_around)


def _residual(
    x: Any, size: Any, is_stem: bool, expand: Any, depthwise: Any, project: Any, stride: int, adds: bool, out: Any,
    part: int, parts: int,
) -> None:  # fmt: skip
    """Of each image the rows that are one of so many parts.

    Args:
        size: (B, H, W, C) of x.
        is_stem: whether what comes first is a 3×3 convolution with stride 2, else a 1×1 one.
        expand, depthwise, project: weights and bias of each.
        adds: whether the block has a shortcut.
    """
    images, height, width, channels = size
    hidden, unit = len(depthwise[1]), 4 // x.itemsize
    line = (width + TAPS) * channels
    lines = np.zeros(TAPS * line if is_stem else 0, x.dtype)
    steps, counts = (channels, 0), (1, channels // unit)
    if is_stem:
        steps, counts = (2 * channels, line), (TAPS, -(-TAPS * channels // unit))
        height, width = -(-height // 2), -(-width // 2)
    down, across = -(-height // stride), -(-width // stride)
    pitch = (width + TAPS) * LANES  # a pixel of zeros before it, and behind
    slot = hidden // LANES * pitch
    ring, middle = np.zeros(TAPS * slot, np.float32), np.empty(across * hidden, x.dtype)
    for image in range(images):
        made = -2
        for row in range(down * part // parts, down * (part + 1) // parts):
            for y in range(max(made + 1, row * stride - 1), row * stride + 2):
                target = y % TAPS * slot
                if not 0 <= y < height:
                    ring[target : target + slot] = 0
                elif is_stem:
                    lines_around(x, size, image, 2 * y, lines)
                    expand_row(lines, 0, steps, counts, expand, width, ring, target + LANES, pitch)
                else:
                    start = (image * height + y) * width * channels
                    expand_row(x, start, steps, counts, expand, width, ring, target + LANES, pitch)
            made = row * stride + 1
            rows = ((made - 2) % TAPS * slot, (made - 1) % TAPS * slot, made % TAPS * slot)
            depthwise_row(ring, rows, pitch, stride, depthwise, across, middle)
            place = (image * down + row) * across * len(project[1])
            project_row(middle, hidden, project, across, x, adds, out, place)


residual = _compiled(_residual)
