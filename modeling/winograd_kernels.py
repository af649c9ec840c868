"""The transforms of `maskserve.modeling.winograd`, 16 channels at a time. Loaded by `maskserve.modeling.compiled`.

    tile of the input, 6 × 6 px ─▶ Bᵀ d B ─▶ 36 numbers for each channel
    36 products for each channel ─▶ Aᵀ m A ─▶ tile of the output, 4 × 4 px, + bias, ReLU

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, section 4, with other points.

Arrays are contiguous, channels last, of float32, of bfloat16's bits (uint16) or of uint8; a place counts numbers from
the start.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numba
import numpy as np

from maskserve.modeling.lanes import LANES, load, load_one, positive, round_line, store

_compiled: Any = partial(numba.njit, nogil=True, error_model="numpy")
INNER, SIDE, PLACES = 4, 6, 36
NEAR, FAR = 0.7, 1.5
POINTS = (0.0, NEAR, -NEAR, FAR, -FAR)
"""Where the polynomials are evaluated that a tile is, and at infinity. 1 and 2, as Lavin and Gray have it, round errors
up twice as much; of pairs 0.05 and 0.1 apart, int8 lost least with these."""


def _before(line: Any) -> Any:
    """Bᵀ d of one line of a tile."""
    a, b, c, d, e, f = line
    even, odd = e - c * FAR**2, (d - b * FAR**2) * NEAR
    far_even, far_odd = e - c * NEAR**2, (d - b * NEAR**2) * FAR
    first = e - c * (NEAR**2 + FAR**2) + a * (NEAR**2 * FAR**2)
    last = f - d * (NEAR**2 + FAR**2) + b * (NEAR**2 * FAR**2)
    return first, even + odd, even - odd, far_even + far_odd, far_even - far_odd, last


before = _compiled(_before)


def _after(line: Any) -> Any:
    """Aᵀ m of one line of products."""
    a, b, c, d, e, f = line
    even, odd, far_even, far_odd = b + c, b - c, d + e, d - e
    second, third = odd * NEAR + far_odd * FAR, even * NEAR**2 + far_even * FAR**2
    return a + even + far_even, second, third, odd * NEAR**3 + far_odd * FAR**3 + f


after = _compiled(_after)


def _line(array: Any, place: int, step: int, zero: int) -> Any:
    """Six vectors, `step` places apart."""
    a, b, c = load(array, place, zero), load(array, place + step, zero), load(array, place + 2 * step, zero)
    place += 3 * step
    return a, b, c, load(array, place, zero), load(array, place + step, zero), load(array, place + 2 * step, zero)


line_of = _compiled(_line)


def _put_line(line: Any, array: Any, place: int, step: int) -> None:
    """The reverse."""
    for index in range(len(line)):
        store(array, place + index * step, line[index])


put_line = _compiled(_put_line)


def _tile(tile: int, height: int, width: int) -> Any:
    """(image, top, left) of the tile's first pixel in the output."""
    down, across = -(-height // INNER), -(-width // INNER)
    image, inside = divmod(tile, down * across)
    return image, inside // across * INNER, inside % across * INNER


tile_of = _compiled(_tile)


def _cut_edge(x: Any, size: Any, pitches: Any, zero: int, image: int, top: int, left: int, out: Any) -> None:
    """The pixels around a tile at the edge of x, `zero` where there are none."""
    _, height, width, channels = size
    for place in range(PLACES):
        row, column = top - 1 + place // SIDE, left - 1 + place % SIDE
        inside = 0 <= row < height and 0 <= column < width
        start = image * pitches[0] + row * pitches[1] + column * channels
        # one number after the other: numba takes a second longer to compile slices
        for channel in range(channels):
            out[place * channels + channel] = x[start + channel] if inside else zero


cut_edge = _compiled(_cut_edge)


def _change(
    x: Any, zero: int, start: int, row_step: int, channels: int, work: Any, out: Any, target: int, place_step: int
) -> None:
    """One tile, which is read from `start` on and written from `target` on."""
    for channel in range(0, channels, LANES):
        for column in range(SIDE):
            line = line_of(x, start + column * channels + channel, row_step, zero)
            put_line(before(line), work, column * LANES, SIDE * LANES)
        for row in range(SIDE):
            line = line_of(work, row * SIDE * LANES, LANES, 0)
            put_line(before(line), out, target + row * SIDE * place_step + channel, place_step)


change = _compiled(_change)


def _one_apart(
    x: Any, size: Any, pitches: Any, zero: int, tile: int, work: Any, edge: Any, out: Any, target: int, place_step: int
) -> None:
    """Tile number `tile` of x ─▶ `out`, from `target` on, each of its places `place_step` after the one before."""
    _, height, width, channels = size
    image, top, left = tile_of(tile, height, width)
    source, start, row_step = x, image * pitches[0] + (top - 1) * pitches[1] + (left - 1) * channels, pitches[1]
    if not (0 < top <= height - SIDE + 1 and 0 < left <= width - SIDE + 1):
        cut_edge(x, size, pitches, zero, image, top, left, edge)
        source, start, row_step = edge, 0, SIDE * channels
    change(source, zero, start, row_step, channels, work, out, target, place_step)


one_apart = _compiled(_one_apart)


def _take_apart(x: Any, size: Any, pitches: Any, zero: int, first: int, last: int, out: Any) -> None:
    """Tiles `first` to `last` of x, padded by one pixel ─▶ `out`, (tiles, 6, 6, C).

    Args:
        x: flat.
        size: (B, H, W, C) of it.
        pitches: numbers from an image to the next, and from a row.
        zero: what 0 is stored as in an x of uint8, else 0.
    """
    numbers = PLACES * size[3]
    work, edge = np.empty(PLACES * LANES, np.float32), np.empty(numbers, x.dtype)
    for tile in range(first, last):
        one_apart(x, size, pitches, zero, tile, work, edge, out, (tile - first) * numbers, size[3])


take_apart = _compiled(_take_apart)


def _take_apart_rounded(
    x: Any, size: Any, pitches: Any, zero: int, scale: float, first: int, last: int, out: Any, units: Any
) -> None:
    """The same in uint8, around 128: a place's numbers, of all channels, in `units` of their own, (tiles · 36).

    Args:
        scale: what 1 in x stands for.
    """
    channels = size[3]
    work, edge = np.empty(PLACES * LANES, np.float32), np.empty(PLACES * channels, x.dtype)
    place_step = channels + LANES  # or all places' numbers of a channel had to share a few sets of the cache
    exact = np.empty(PLACES * place_step, np.float32)
    for tile in range(first, last):
        one_apart(x, size, pitches, zero, tile, work, edge, exact, 0, place_step)
        for index in range(PLACES):
            place = (tile - first) * PLACES + index
            units[place] = round_line(exact, index * place_step, channels, out, place * channels) * scale


take_apart_rounded = _compiled(_take_apart_rounded)


def _in_units(line: Any, units: Any, place: int) -> Any:
    """Six vectors, each times a number: the numbers lie as those of a column of places."""
    a, b, c, d, e, f = line
    a, b, c = a * load_one(units, place), b * load_one(units, place + SIDE), c * load_one(units, place + 2 * SIDE)
    place += 3 * SIDE
    return a, b, c, d * load_one(units, place), e * load_one(units, place + SIDE), f * load_one(units, place + 2 * SIDE)


in_units = _compiled(_in_units)


def _put_together(
    products: Any, units: Any, first: int, last: int, bias: Any, adds: bool, relu: bool, out: Any
) -> None:
    """(tiles, 6, 6, C') ─▶ tiles `first` to `last` of `out`, (B, H, W, C'), added to what is there if it `adds`.

    Args:
        units: what 1 stands for in the products of each place, (tiles · 36), or None.
    """
    _, height, width, channels = out.shape
    work = np.empty(PLACES * LANES, np.float32)
    for tile in range(first, last):
        image, top, left = tile_of(tile, height, width)
        for channel in range(0, channels, LANES):
            for column in range(SIDE):
                place = (tile - first) * PLACES + column
                line = line_of(products, place * channels + channel, SIDE * channels, 0)
                if units is not None:
                    line = in_units(line, units, place)
                put_line(after(line), work, column * LANES, SIDE * LANES)
            shift = load(bias, channel, 0)
            for row in range(min(INNER, height - top)):
                line = after(line_of(work, row * SIDE * LANES, LANES, 0))
                place = ((image * height + top + row) * width + left) * channels + channel
                for column in range(min(INNER, width - left)):
                    value = line[column] + shift
                    if adds:
                        value = value + load(out, place + column * channels, 0)
                    store(out, place + column * channels, positive(value) if relu else value)


put_together = _compiled(_put_together)


def _put_tiles(tiles: Any, first: int, last: int, out: Any) -> None:
    """Tiles `first` to `last` of `out`, (B, H, W, C), as they are, 4 × 4 px each after the other."""
    _, height, width, channels = out.shape
    source, target = tiles.reshape(-1), out.reshape(-1)
    for tile in range(first, last):
        image, top, left = tile_of(tile, height, width)
        numbers = min(INNER, width - left) * channels
        for row in range(min(INNER, height - top)):
            start = ((tile - first) * INNER + row) * INNER * channels
            place = ((image * height + top + row) * width + left) * channels
            for index in range(numbers):
                target[place + index] = source[start + index]


put_tiles = _compiled(_put_tiles)
