"""16 numbers at a time for compiled kernels: numba has no vectors, and LLVM does not find them in every loop.

    float32, bfloat16's bits (uint16) or uint8 in an array ─▶ load ─▶ Lanes: +, −, × ─▶ store

A place counts an array's numbers from its start; nothing checks it, and numbers come by the sixteen. Imported by
kernels only, of whose compiled code it becomes a part (`maskserve.modeling.compiled`).
"""

from __future__ import annotations

import operator
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic, models, overload, register_model

LANES = 16
_generated: Any = intrinsic
FLOATS = ir.VectorType(ir.FloatType(), LANES)
INTS = ir.VectorType(ir.IntType(32), LANES)
HALVES = ir.VectorType(ir.IntType(16), LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)


class Lanes(types.Type):
    """16 float32."""

    def __init__(self) -> None:
        super().__init__("Lanes")


lanes = Lanes()


@register_model(Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)


def every_lane(kind: ir.VectorType, number: float) -> ir.Constant:
    """That number in all lanes."""
    return ir.Constant(kind, [number] * LANES)


def spread(builder: Any, kind: ir.VectorType, number: Any) -> Any:
    """A number that is calculated, likewise."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), every_lane(INTS, 0))


def pointer(context: Any, builder: Any, kind: Any, array: Any, place: Any, wanted: Any = None) -> Any:
    """Of what lies there, as that type of LLVM's; by default the 16 numbers from there on, as they are stored."""
    stored = wanted or {types.uint8: _BYTES, types.uint16: HALVES, types.float32: FLOATS}[kind.dtype]
    start = builder.gep(context.make_array(kind)(context, builder, array).data, [place])
    return builder.bitcast(start, stored.as_pointer())


def call(builder: Any, name: str, kind: Any, arguments: list[Any]) -> Any:
    """LLVM's function of that name, which answers that type."""
    function = ir.FunctionType(kind, [one.type for one in arguments])
    return builder.call(get_or_insert_function(builder.module, function, name), arguments)


def read(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    """Code for the 16 float32 or bfloat16 from that place on."""
    found = builder.load(pointer(context, builder, kind, array, place), align=kind.dtype.bitwidth // 8)
    if kind.dtype == types.uint16:  # the upper half of a float32
        return builder.bitcast(builder.shl(builder.zext(found, INTS), every_lane(INTS, 16)), FLOATS)
    return found


@_generated
def load(typing: Any, array: Any, place: Any, zero: Any) -> Any:  # noqa: ARG001
    """The 16 from that place on; of uint8, how far they are from `zero`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, place, zero = arguments
        kind = signature.args[0]
        if kind.dtype != types.uint8:
            return read(context, builder, kind, array, place)
        found = builder.load(pointer(context, builder, kind, array, place), align=1)
        return builder.sitofp(builder.sub(builder.zext(found, INTS), spread(builder, INTS, zero)), FLOATS)

    return lanes(array, types.intp, types.int32), generate


@_generated
def load_one(typing: Any, array: Any, place: Any) -> Any:  # noqa: ARG001
    """16 times the number at that place, of float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return spread(builder, FLOATS, builder.load(builder.gep(data, [arguments[1]])))

    return lanes(array, types.intp), generate


def to_bfloat16(context: Any, builder: Any, value: Any) -> Any:
    """Code for the bits of 16 float32 rounded to it, each to the nearest, and in the middle to the even one."""
    if "+avx512bf16" in context.codegen().magic_tuple()[2]:  # what kernels are compiled for
        return call(builder, "llvm.x86.avx512bf16.cvtneps2bf16.512", HALVES, [value])
    whole = builder.bitcast(value, INTS)
    odd = builder.and_(builder.lshr(whole, every_lane(INTS, 16)), every_lane(INTS, 1))
    rounded = builder.add(builder.add(whole, odd), every_lane(INTS, 0x7FFF))
    return builder.trunc(builder.lshr(rounded, every_lane(INTS, 16)), HALVES)


@_generated
def store(typing: Any, array: Any, place: Any, value: Any) -> Any:  # noqa: ARG001
    """The 16 from that place on; to bfloat16's bits as `to_bfloat16`, to uint8 the whole part of those in its range."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, place, value = arguments
        kind = signature.args[0]
        if kind.dtype == types.uint8:
            value = builder.trunc(builder.fptosi(value, INTS), _BYTES)
        if kind.dtype == types.uint16:
            value = to_bfloat16(context, builder, value)
        builder.store(value, pointer(context, builder, kind, array, place), align=kind.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), generate


@_generated
def every(typing: Any, number: Any) -> Any:  # noqa: ARG001
    """16 times that number."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return spread(builder, FLOATS, builder.fptrunc(arguments[0], ir.FloatType()))

    return lanes(types.float64), generate


@_generated
def positive(typing: Any, value: Any) -> Any:  # noqa: ARG001
    """The 16, 0 for those below; NaN stays, as in torch's ReLU."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        zeros = every_lane(FLOATS, 0.0)
        return builder.select(builder.fcmp_ordered("<", arguments[0], zeros), zeros, arguments[0])

    return lanes(value), generate


@_generated
def larger(typing: Any, a: Any, b: Any) -> Any:  # noqa: ARG001
    """Of each lane's two numbers the larger one without its sign; `a` has none."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        # the bits of positive numbers are in their order
        first, second = (builder.bitcast(one, INTS) for one in arguments)
        second = builder.and_(second, every_lane(INTS, 0x7FFFFFFF))
        return builder.bitcast(builder.select(builder.icmp_signed(">", second, first), second, first), FLOATS)

    return lanes(a, b), generate


@_generated
def largest(typing: Any, value: Any) -> Any:  # noqa: ARG001
    """Of 16 positive numbers."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        most = call(builder, "llvm.vector.reduce.smax.v16i32", ir.IntType(32), [builder.bitcast(arguments[0], INTS)])
        return builder.bitcast(most, ir.FloatType())

    return types.float32(value), generate


def _of_two(name: str) -> Any:
    """For `overload`: of two vectors, or of a vector and a number."""

    @_generated
    def both(typing: Any, a: Any, b: Any) -> Any:  # noqa: ARG001
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return getattr(builder, name)(*arguments, flags=("contract",))

        return lanes(a, b), generate

    def known(a: Any, b: Any) -> Any:
        def of_lanes(a: Any, b: Any) -> Any:
            return both(a, b)

        def of_one(a: Any, b: Any) -> Any:
            return both(a, every(b))

        if not isinstance(a, Lanes):
            return None
        return of_lanes if isinstance(b, Lanes) else of_one if isinstance(b, types.Float) else None

    return known


overload(operator.add)(_of_two("fadd"))
overload(operator.sub)(_of_two("fsub"))
overload(operator.mul)(_of_two("fmul"))


def _round_line(x: Any, start: int, count: int, out: Any, target: int) -> Any:
    """`count` numbers from `start` on ─▶ `out` from `target` on, uint8, in 127ths of the largest, around 128; what 1
    stands for there."""
    sizes, most_steps = every(0.0), np.float32(127)
    for index in range(0, count, LANES):
        sizes = larger(sizes, load(x, start + index, 0))
    most = largest(sizes)
    steps = most_steps / most if most > 0 else np.float32(0)
    for index in range(0, count, LANES):
        store(out, target + index, load(x, start + index, 0) * steps + 128.5)
    return most / most_steps


round_line: Any = numba.njit(nogil=True, error_model="numpy")(_round_line)
