"""Sixteen float32 numbers at once, for compiled loops over rows so short that compilers see nothing to vectorise.

A *chunk* is 16 consecutive entries of an array, or the fewer that are left of a row: what is beyond is read as 0, and
not written. In compiled code a chunk is one number: of the type `Lanes`, computed with by the functions here, in vector
instructions of the processor at hand. Needs Numba.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from lpsphere.kernels.powers import EXP2, LOG2_RATIO, LOWEST, MANTISSA, SMALLEST, SQRT_HALF

__all__ = [
    "LANES",
    "add_product",
    "entries_where",
    "larger",
    "largest_of",
    "load",
    "load_bytes",
    "magnitude",
    "power_of",
    "scale",
    "store",
    "sum_of",
    "weighted",
    "with_sign_of",
    "zeros",
]

LANES = 16

_FLOAT, _INT, _BYTE, _BIT = ir.FloatType(), ir.IntType(32), ir.IntType(8), ir.IntType(1)
_FLOATS, _INTS, _BYTES, _BITS = (ir.VectorType(kind, LANES) for kind in (_FLOAT, _INT, _BYTE, _BIT))
_CONTRACT = ("contract",)
_ALL_BUT_SIGN = 0x7FFFFFFF


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Lanes")


class _Flags(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Flags")


_lanes, _flags = _Lanes(), _Flags()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)  # type: ignore[no-untyped-call]


@register_model(_Flags)
class _FlagsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _BYTES)  # type: ignore[no-untyped-call]


def _function(result: Any, generate: Callable[..., Any]) -> Any:
    """A function of compiled code: ``generate(builder, *arguments)`` writes its instructions."""

    def typed(_: Any, *arguments: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            parts = [
                context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
                for kind, value in zip(signature.args, values, strict=True)
            ]
            made = generate(builder, *parts)
            return context.get_dummy_value() if made is None else made

        return result(*arguments), code

    typed.__signature__ = inspect.signature(generate)  # type: ignore[attr-defined]
    return intrinsic(typed)


def _splat(builder: Any, number: Any, kind: Any) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INTS, [0] * LANES))


def _all(number: Any, kind: Any = _FLOATS) -> Any:
    """A constant with one number in every lane."""
    return ir.Constant(kind, [float(number) if kind is _FLOATS else int(number)] * LANES)


def _magnitude_bits(builder: Any, x: Any) -> Any:
    return builder.and_(builder.bitcast(x, _INTS), _all(_ALL_BUT_SIGN, _INTS))


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return builder.fadd(builder.fmul(a, b, flags=_CONTRACT), c, flags=_CONTRACT)


def _pointer(builder: Any, data: Any, offset: Any, element: Any, kind: Any) -> Any:
    return builder.bitcast(builder.gep(data, [offset], source_etype=element), kind.as_pointer())


def _instruction(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """An instruction that the compiler offers as a function."""
    kind = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}")  # type: ignore[no-untyped-call]


def _inside(builder: Any, count: Any) -> Any:
    """Which lanes are among the first ``count``."""
    return builder.icmp_signed(
        "<", ir.Constant(_INTS, list(range(LANES))), _splat(builder, builder.trunc(count, _INT), _INTS)
    )


def _whole(builder: Any, count: Any) -> Any:
    return builder.icmp_signed(">=", count, ir.Constant(count.type, LANES))


def _load(element: Any, kind: Any) -> Callable[..., Any]:
    suffix, size = (f"v{LANES}f32", 4) if element is _FLOAT else (f"v{LANES}i8", 1)

    def generate(builder: Any, data: Any, offset: Any, count: Any) -> Any:
        place = _pointer(builder, data, offset, element, kind)
        masked = _instruction(builder, f"masked.load.{suffix}.p0{suffix}", kind, [place.type, _INT, _BITS, kind])
        with builder.if_else(_whole(builder, count)) as (then, otherwise):
            with then:
                whole = builder.load(place, align=size, typ=kind)
                from_whole = builder.block
            with otherwise:
                inside, zeros = _inside(builder, count), ir.Constant(kind, None)
                part = builder.call(masked, [place, ir.Constant(_INT, size), inside, zeros])
                from_part = builder.block
        found = builder.phi(kind)
        found.add_incoming(whole, from_whole)
        found.add_incoming(part, from_part)
        return found

    return generate


def _store(builder: Any, data: Any, offset: Any, count: Any, x: Any) -> None:
    place = _pointer(builder, data, offset, _FLOAT, _FLOATS)
    name, arguments = f"masked.store.v{LANES}f32.p0v{LANES}f32", [_FLOATS, place.type, _INT, _BITS]
    masked = _instruction(builder, name, ir.VoidType(), arguments)
    with builder.if_else(_whole(builder, count)) as (then, otherwise):
        with then:
            builder.store(x, place, align=4)
        with otherwise:
            builder.call(masked, [x, place, ir.Constant(_INT, 4), _inside(builder, count)])


def _larger(builder: Any, x: Any, y: Any) -> Any:
    one, other = (_magnitude_bits(builder, z) for z in (x, y))
    return builder.bitcast(builder.select(builder.icmp_signed(">", one, other), one, other), _FLOATS)


def _largest_of(builder: Any, x: Any) -> Any:
    reduce = _instruction(builder, f"vector.reduce.smax.v{LANES}i32", _INT, [_INTS])
    return builder.bitcast(builder.call(reduce, [_magnitude_bits(builder, x)]), _FLOAT)


def _sum_of(builder: Any, x: Any) -> Any:
    lanes = LANES
    while lanes > 1:  # halves added up, so that the order is always the same
        lanes //= 2
        kind = ir.VectorType(_INT, lanes)
        low, high = ir.Constant(kind, list(range(lanes))), ir.Constant(kind, list(range(lanes, 2 * lanes)))
        x = builder.fadd(builder.shuffle_vector(x, x, low), builder.shuffle_vector(x, x, high))
    return builder.extract_element(x, ir.Constant(_INT, 0))


def _polynomial(builder: Any, coefficients: Any, x: Any) -> Any:
    total = _all(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = _multiply_add(builder, total, x, _all(coefficient))
    return total


def _power_of(builder: Any, x: Any, head: Any, tail: Any) -> Any:
    shifted = builder.sub(builder.bitcast(x, _INTS), _all(SQRT_HALF, _INTS))
    n = builder.sitofp(builder.ashr(shifted, _all(23, _INTS)), _FLOATS)
    mantissa = builder.add(builder.and_(shifted, _all(MANTISSA, _INTS)), _all(SQRT_HALF, _INTS))
    f = builder.fsub(builder.bitcast(mantissa, _FLOATS), _all(1))
    log = builder.fmul(_polynomial(builder, LOG2_RATIO, f), f)
    exponent = _splat(builder, builder.fadd(head, tail), _FLOATS)
    head, tail = _splat(builder, head, _FLOATS), _splat(builder, tail, _FLOATS)
    floor = _instruction(builder, f"floor.v{LANES}f32", _FLOATS, [_FLOATS])
    whole = builder.call(floor, [_multiply_add(builder, exponent, builder.fadd(n, log), _all(0.5))])
    rest = builder.fadd(
        _multiply_add(builder, head, n, builder.fneg(whole)),
        _multiply_add(builder, tail, n, builder.fmul(exponent, log)),
    )
    result = _polynomial(builder, EXP2, rest)
    normal = builder.fcmp_ordered(">=", whole, _all(LOWEST))
    kept = builder.fptosi(builder.select(normal, whole, _all(LOWEST)), _INTS)
    by = builder.bitcast(builder.shl(builder.add(kept, _all(127, _INTS)), _all(23, _INTS)), _FLOATS)
    normal = builder.and_(normal, builder.fcmp_ordered(">=", x, _all(SMALLEST)))
    return builder.select(normal, builder.fmul(result, by), _all(0))


def _scale(builder: Any, x: Any, factor: Any) -> Any:
    return builder.fmul(x, _splat(builder, factor, _FLOATS))


def _magnitude(builder: Any, x: Any) -> Any:
    return builder.bitcast(_magnitude_bits(builder, x), _FLOATS)


def _weighted(builder: Any, a: Any, x: Any, b: Any, y: Any) -> Any:
    return _multiply_add(builder, _splat(builder, a, _FLOATS), x, _scale(builder, y, b))


def _add_product(builder: Any, total: Any, x: Any, y: Any) -> Any:
    return _multiply_add(builder, x, y, total)


def _with_sign_of(builder: Any, x: Any, y: Any) -> Any:
    sign = builder.and_(builder.bitcast(y, _INTS), _all(~_ALL_BUT_SIGN, _INTS))
    return builder.bitcast(builder.or_(_magnitude_bits(builder, x), sign), _FLOATS)


def _where(builder: Any, mask: Any, x: Any) -> Any:
    return builder.select(builder.icmp_unsigned("!=", mask, ir.Constant(_BYTES, None)), x, _all(0))


load: Any = _function(_lanes, _load(_FLOAT, _FLOATS))
"""The chunk of an array that begins at an offset and has so many entries left: load(array, offset, count)."""

load_bytes: Any = _function(_flags, _load(_BYTE, _BYTES))
"""The same of a bool array, for `entries_where`."""

store: Any = _function(types.none, _store)
"""Write a chunk: store(array, offset, count, lanes)."""

zeros: Any = _function(_lanes, lambda builder: _all(0))
"""A chunk of zeros."""

entries_where: Any = _function(_lanes, _where)
"""entries_where(flags, x): x, and 0 where the flag is not set."""

larger: Any = _function(_lanes, _larger)
"""The larger magnitude in every lane, where infinity is larger than every number and NaN larger than that."""

largest_of: Any = _function(types.float32, _largest_of)
"""The largest magnitude of all lanes, by the order of `larger`."""

sum_of: Any = _function(types.float32, _sum_of)
"""The sum of all lanes."""

power_of: Any = _function(_lanes, _power_of)
"""power_of(x, head, tail): as `lpsphere.kernels.powers.power`."""

scale: Any = _function(_lanes, _scale)
"""scale(x, factor): all lanes times a number."""

magnitude: Any = _function(_lanes, _magnitude)
"""magnitude(x): |x|."""

weighted: Any = _function(_lanes, _weighted)
"""weighted(a, x, b, y): a x + b y, of numbers a, b and chunks x, y."""

add_product: Any = _function(_lanes, _add_product)
"""add_product(total, x, y): total + x y in every lane."""

with_sign_of: Any = _function(_lanes, _with_sign_of)
"""with_sign_of(x, y): |x| with the sign of y."""
