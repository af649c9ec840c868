"""The transforms of `maskserve.modeling.winograd`, 16 channels at a time. Loaded by `maskserve.modeling.compiled`.

    tile of the input (n, n)    ─▶ Bᵀ d B ─▶ n² numbers for each channel
    n² products for each channel ─▶ Aᵀ m A ─▶ tile of the output (n − 2, n − 2), + bias, ReLU

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, section 4. numba has no vectors of its own,
and LLVM does not find them in loops over this many places: so `Lanes` is one, with what is needed of it.

Arrays are contiguous, channels last, of float32 or of bfloat16's bits (uint16); a place counts numbers from the start.
"""

from __future__ import annotations

import operator
import os
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.cpython.unsafe.tuple import tuple_setitem
from numba.extending import intrinsic, models, overload, register_model

_compiled: Any = partial(numba.njit, nogil=True, error_model="numpy", cache=os.access(Path(__file__).parent, os.W_OK))
_generated: Any = intrinsic
with_one: Any = tuple_setitem
LANES = 16
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)
_HALVES = ir.VectorType(ir.IntType(16), LANES)


class Lanes(types.Type):
    """16 float32."""

    def __init__(self) -> None:
        super().__init__("Lanes")


lanes = Lanes()


@register_model(Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


def _every(kind: ir.VectorType, number: float) -> ir.Constant:
    return ir.Constant(kind, [number] * LANES)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    stored = _HALVES if kind.dtype == types.uint16 else _FLOATS
    start = builder.gep(context.make_array(kind)(context, builder, array).data, [place])
    return builder.bitcast(start, stored.as_pointer())


@_generated
def load(typing: Any, array: Any, place: Any, there: Any) -> Any:  # noqa: ARG001
    """The 16 from that place on, or zeros where they are not there: without a branch."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, place, there = arguments
        place = builder.select(there, place, ir.Constant(place.type, 0))
        kind = signature.args[0]
        bits = kind.dtype == types.uint16
        read = builder.load(_pointer(context, builder, kind, array, place), align=2 if bits else 4)
        if bits:  # the upper half of a float32
            read = builder.bitcast(builder.shl(builder.zext(read, _INTS), _every(_INTS, 16)), _FLOATS)
        return builder.select(there, read, _every(_FLOATS, 0.0))

    return lanes(array, types.intp, types.boolean), generate


@_generated
def store(typing: Any, array: Any, place: Any, value: Any) -> Any:  # noqa: ARG001
    """The 16 from that place on; to bfloat16's bits each rounded to the nearest, and in the middle to the even one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, place, value = arguments
        kind = signature.args[0]
        bits = kind.dtype == types.uint16
        if bits:
            whole = builder.bitcast(value, _INTS)
            odd = builder.and_(builder.lshr(whole, _every(_INTS, 16)), _every(_INTS, 1))
            rounded = builder.add(builder.add(whole, odd), _every(_INTS, 0x7FFF))
            value = builder.trunc(builder.lshr(rounded, _every(_INTS, 16)), _HALVES)
        builder.store(value, _pointer(context, builder, kind, array, place), align=2 if bits else 4)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), generate


@_generated(prefer_literal=True)
def times(typing: Any, value: Any, number: Any) -> Any:  # noqa: ARG001
    """The 16, each times a number that is known when this is compiled."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fmul(arguments[0], _every(_FLOATS, number.literal_value), flags=("contract",))

    return lanes(value, number), generate


@_generated
def positive(typing: Any, value: Any) -> Any:  # noqa: ARG001
    """The 16, 0 for those below; NaN stays, as in torch's ReLU."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        zeros = _every(_FLOATS, 0.0)
        return builder.select(builder.fcmp_ordered("<", arguments[0], zeros), zeros, arguments[0])

    return lanes(value), generate


def _of_two(name: str) -> Any:
    @_generated
    def both(typing: Any, a: Any, b: Any) -> Any:  # noqa: ARG001
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return getattr(builder, name)(*arguments, flags=("contract",))

        return lanes(a, b), generate

    def known(a: Any, b: Any) -> Any:
        def of_lanes(a: Any, b: Any) -> Any:
            return both(a, b)

        return of_lanes if isinstance(a, Lanes) and isinstance(b, Lanes) else None

    return known


overload(operator.add)(_of_two("fadd"))
overload(operator.sub)(_of_two("fsub"))


def before(line: Any) -> Any:
    """Bᵀ d of one line of a tile."""
    raise NotImplementedError("compiled only")


def after(line: Any) -> Any:
    """Aᵀ m of one line of products."""
    raise NotImplementedError("compiled only")


@overload(before)
def _before(line: Any) -> Any:
    def of_4(line: Any) -> Any:
        a, b, c, d = line
        return a - c, b + c, c - b, b - d

    def of_6(line: Any) -> Any:
        a, b, c, d, e, f = line
        even, odd = e - times(c, 4), d - times(b, 4)
        close, twice = e - c, times(d - b, 2)
        first, last = times(a, 4) - times(c, 5) + e, times(b, 4) - times(d, 5) + f
        return first, even + odd, even - odd, close + twice, close - twice, last

    return of_4 if len(line) == 4 else of_6


@overload(after)
def _after(line: Any) -> Any:
    def of_4(line: Any) -> Any:
        a, b, c, d = line
        return a + b + c, b - c - d

    def of_6(line: Any) -> Any:
        a, b, c, d, e, f = line
        even, odd, far_even, far_odd = b + c, b - c, d + e, d - e
        return a + even + far_even, odd + times(far_odd, 2), even + times(far_even, 4), odd + times(far_odd, 8) + f

    return of_4 if len(line) == 4 else of_6


@_generated
def _nothing(typing: Any) -> Any:  # noqa: ARG001
    return lanes(), lambda *_: _every(_FLOATS, 0.0)


def blank(like: Any) -> Any:
    """A line of zeros as long as that tuple."""
    raise NotImplementedError("compiled only")


@overload(blank)
def _blank(like: Any) -> Any:
    def of_4(like: Any) -> Any:  # noqa: ARG001
        zero = _nothing()
        return zero, zero, zero, zero

    def of_6(like: Any) -> Any:  # noqa: ARG001
        zero = _nothing()
        return zero, zero, zero, zero, zero, zero

    return of_4 if len(like) == 4 else of_6


def _line(like: Any, array: Any, place: int, step: int) -> Any:
    """As many vectors as `like` has, `step` places apart."""
    line = blank(like)
    for index in range(len(like)):
        line = with_one(line, index, load(array, place + index * step, True))
    return line


line_of = _compiled(_line)


def _put_line(line: Any, array: Any, place: int, step: int) -> None:
    """The reverse."""
    for index in range(len(line)):
        store(array, place + index * step, line[index])


put_line = _compiled(_put_line)


def _tile(tile: int, side: int, height: int, width: int) -> Any:
    """(image, top, left) of the tile's first pixel in the output."""
    down, across = -(-height // side), -(-width // side)
    image, inside = divmod(tile, down * across)
    return image, inside // across * side, inside % across * side


tile_of = _compiled(_tile)


def _take_apart(x: Any, first: int, last: int, like: Any, out: Any) -> None:
    """Tiles `first` to `last` of x (B, H, W, C), padded by one pixel ─▶ `out`, (tiles, n, n, C). `like`: n numbers."""
    _, height, width, channels = x.shape
    side = len(like)
    work = np.empty(side * side * LANES, np.float32)
    for tile in range(first, last):
        image, top, left = tile_of(tile, side - 2, height, width)
        for channel in range(0, channels, LANES):
            for column in range(side):
                line = blank(like)
                in_width = 0 < left + column <= width
                for row in range(side):
                    place = ((image * height + top + row - 1) * width + left + column - 1) * channels + channel
                    line = with_one(line, row, load(x, place, in_width & (top + row > 0) & (top + row <= height)))
                put_line(before(line), work, column * LANES, side * LANES)
            for row in range(side):
                place = ((tile - first) * side + row) * side * channels + channel
                put_line(before(line_of(like, work, row * side * LANES, LANES)), out, place, channels)


take_apart = _compiled(_take_apart)


def _put_together(products: Any, first: int, last: int, like: Any, bias: Any, adds: bool, relu: bool, out: Any) -> None:
    """(tiles, n, n, C') ─▶ tiles `first` to `last` of `out`, (B, H, W, C'), added to what is there if it `adds`."""
    _, height, width, channels = out.shape
    side = len(like)
    work = np.empty(side * side * LANES, np.float32)
    for tile in range(first, last):
        image, top, left = tile_of(tile, side - 2, height, width)
        for channel in range(0, channels, LANES):
            shift = load(bias, channel, True)
            for column in range(side):
                place = ((tile - first) * side * side + column) * channels + channel
                put_line(after(line_of(like, products, place, side * channels)), work, column * LANES, side * LANES)
            for row in range(min(side - 2, height - top)):
                line = after(line_of(like, work, row * side * LANES, LANES))
                place = ((image * height + top + row) * width + left) * channels + channel
                for column in range(min(side - 2, width - left)):
                    value = line[column] + shift + load(out, place + column * channels, adds)
                    store(out, place + column * channels, positive(value) if relu else value)


put_together = _compiled(_put_together)
