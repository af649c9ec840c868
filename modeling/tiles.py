"""Tiles for compiled kernels: 16 channels of some pixels at a time, in registers until they are put somewhere.

    numbers of P pixels, weights of N · 16 channels ─▶ products  ─┐
    three rows of 16 channels, their taps           ─▶ depthwise ─┴▶ Tile, P × N lanes ─▶ plus, cut ─▶ put

numba keeps no array in registers, and sums that are read from memory and written there for each product take several
times as long: so the code of a whole tile is written out here. Arrays are flat, of float32 or of bfloat16's bits
(uint16); a place counts numbers from the start, and nothing checks it. Imported by kernels only, as
`maskserve.modeling.lanes` is, whose lanes a tile consists of.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import alloca_once_value, for_range
from numba.extending import intrinsic

from maskserve.modeling.lanes import FLOATS, INTS, LANES, call, every_lane, lanes, pointer, read, spread, to_bfloat16

_generated: Any = intrinsic
TAPS = 3
"""Of a depthwise convolution, each way."""


def tile_kind(pixels: int, vectors: int) -> Any:
    return types.UniTuple(types.UniTuple(lanes, vectors), pixels)


def _number(count: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), count)


def _steps(builder: Any, start: Any, step: Any, count: int) -> list[Any]:
    """Places: `start`, and `count` − 1 more."""
    return [builder.add(start, builder.mul(step, _number(number))) for number in range(count)]


def _times_plus(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a · b + c; of bfloat16's pairs both products."""
    if a.type == INTS:
        return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, [c, a, b])
    return call(builder, "llvm.fma.v16f32", FLOATS, [a, b, c])


def _tile(context: Any, builder: Any, kind: Any, values: list[list[Any]]) -> Any:
    tile = ir.Constant(context.get_value_type(kind), ir.Undefined)
    for pixel, row in enumerate(values):
        for vector, value in enumerate(row):
            tile = builder.insert_value(tile, value, [pixel, vector])
    return tile


def products_of(pixels: int, vectors: int) -> Any:
    """The intrinsic `products` for that many pixels, of each 16 · vectors channels."""
    kind = tile_kind(pixels, vectors)

    @_generated
    def products(typing: Any, x: Any, start: Any, steps: Any, counts: Any, weights: Any, place: Any, bias: Any) -> Any:  # noqa: ARG001
        """Of each pixel its numbers times their weights, + bias: a Tile.

        Args:
            start: of the first pixel's first number in x.
            steps: from a pixel to the next one, and from a line of a pixel's numbers to the next one.
            counts: of lines, and of a line's numbers; in bfloat16 of pairs of them.
            weights: from `place` on, for each number those of all channels; for each pair each channel's two.
            bias: the channels' lanes, one after the other.
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, start, steps, counts, weights, place, bias = arguments
            x_kind, weights_kind = signature.args[0], signature.args[4]
            in_pairs = x_kind.dtype == types.uint16
            unit, one, all_lanes = (2, ir.IntType(32), INTS) if in_pairs else (1, ir.FloatType(), FLOATS)
            step, pitch, lines, count = (builder.extract_value(pair, at) for pair in (steps, counts) for at in range(2))

            def load(kind: Any, array: Any, place: Any, wanted: Any) -> Any:
                at = pointer(context, builder, kind, array, place, wanted)
                return builder.load(at, align=kind.dtype.bitwidth // 8)

            first = [builder.extract_value(bias, vector) for vector in range(vectors)]
            sums = [[alloca_once_value(builder, value) for value in first] for _ in range(pixels)]
            with for_range(builder, lines) as line, for_range(builder, count) as number:
                taken = builder.add(builder.mul(line.index, count), number.index)
                row = builder.add(place, builder.mul(taken, _number(vectors * LANES * unit)))
                places = _steps(builder, row, _number(LANES * unit), vectors)
                own = [load(weights_kind, weights, at, all_lanes) for at in places]
                inside = builder.add(builder.mul(line.index, pitch), builder.mul(number.index, _number(unit)))
                for pixel, at in enumerate(_steps(builder, builder.add(start, inside), step, pixels)):
                    value = spread(builder, all_lanes, load(x_kind, x, at, one))
                    for total, weight in zip(sums[pixel], own, strict=True):
                        builder.store(_times_plus(builder, value, weight, builder.load(total)), total)
            return _tile(context, builder, kind, [[builder.load(total) for total in row] for row in sums])

        return kind(x, start, steps, counts, weights, place, bias), generate

    return products


def depthwise_of(pixels: int, stride: int) -> Any:
    """The intrinsic `depthwise` for that many pixels in a row, of each 16 channels."""
    kind = tile_kind(pixels, 1)

    @_generated
    def depthwise(typing: Any, x: Any, rows: Any, taps: Any, place: Any, step: Any, bias: Any) -> Any:  # noqa: ARG001
        """3 × 3 pixels times their taps, + bias: a Tile.

        Args:
            x: float32, a pixel's 16 channels after the other's.
            rows: where in it the first pixel lies that the first answer sees, in each of the three rows.
            taps: float32, the first from `place` on, the others `step` apart.
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, rows, taps, place, step, bias = arguments
            x_kind, _, taps_kind, *_ = signature.args
            places = _steps(builder, place, step, TAPS**2)
            own = [read(context, builder, taps_kind, taps, at) for at in places]
            sums = [bias] * pixels
            for row in range(TAPS):
                seen = _steps(builder, builder.extract_value(rows, row), _number(LANES), (pixels - 1) * stride + TAPS)
                for column, at in enumerate(seen):
                    value = read(context, builder, x_kind, x, at)
                    for tap in range(TAPS):
                        pixel, between = divmod(column - tap, stride)
                        if not between and 0 <= pixel < pixels:
                            sums[pixel] = _times_plus(builder, value, own[row * TAPS + tap], sums[pixel])
            return _tile(context, builder, kind, [[total] for total in sums])

        return kind(x, rows, taps, place, step, bias), generate

    return depthwise


def _lanes(builder: Any, kind: Any, tile: Any) -> list[list[Any]]:
    """Of each pixel."""
    vectors = range(kind.dtype.count)
    return [[builder.extract_value(tile, [pixel, vector]) for vector in vectors] for pixel in range(kind.count)]


def _lanes_and_places(builder: Any, kind: Any, tile: Any, place: Any, steps: Any) -> list[list[tuple[Any, Any]]]:
    """Each pixel's, and where they lie in an array: from `place` on, `steps` from a pixel to the next one and from
    lanes to the next."""
    step, lanes_step = (builder.extract_value(steps, at) for at in range(2))
    places = [
        _steps(builder, start, lanes_step, kind.dtype.count) for start in _steps(builder, place, step, kind.count)
    ]
    return [[*zip(*pair, strict=True)] for pair in zip(_lanes(builder, kind, tile), places, strict=True)]


@_generated
def cut(typing: Any, tile: Any) -> Any:  # noqa: ARG001
    """ReLU6 of it; NaN stays."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, values = signature.args[0], _lanes(builder, signature.args[0], arguments[0])
        for sign, limit in (("<", every_lane(FLOATS, 0.0)), (">", every_lane(FLOATS, 6.0))):
            values = [
                [builder.select(builder.fcmp_ordered(sign, value, limit), limit, value) for value in row]
                for row in values
            ]
        return _tile(context, builder, kind, values)

    return tile(tile), generate


@_generated
def plus(typing: Any, tile: Any, x: Any, place: Any, steps: Any) -> Any:  # noqa: ARG001
    """What lies in x added to it, see `_lanes_and_places`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (kind, x_kind, *_), (tile, x, *where) = signature.args, arguments
        rows = _lanes_and_places(builder, kind, tile, *where)
        sums = [[builder.fadd(value, read(context, builder, x_kind, x, at)) for value, at in row] for row in rows]
        return _tile(context, builder, kind, sums)

    return tile(tile, x, place, steps), generate


@_generated
def put(typing: Any, tile: Any, out: Any, place: Any, steps: Any) -> Any:  # noqa: ARG001
    """It stored in `out`, likewise."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (kind, out_kind, *_), (tile, out, *where) = signature.args, arguments
        for value, at in chain.from_iterable(_lanes_and_places(builder, kind, tile, *where)):
            if out_kind.dtype == types.uint16:
                value = to_bfloat16(context, builder, value)
            builder.store(value, pointer(context, builder, out_kind, out, at), align=out_kind.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(tile, out, place, steps), generate
