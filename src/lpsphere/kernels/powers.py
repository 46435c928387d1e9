"""x^e of float32 numbers between 0 and 1, in a form that compilers turn into vector instructions. Needs Numba.

x = 2^n m with m in [0.707, 1.414); log2 m and 2^r are polynomials, interpolated at Chebyshev nodes. The exponent is
split into a head of 8 bits, whose product with n is exact, and a tail, so that the error stays within a few units in
the last place however large the power of two.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.polynomial import Chebyshev, Polynomial

__all__ = [
    "EXP2",
    "LOG2_RATIO",
    "LOWEST",
    "MANTISSA",
    "SMALLEST",
    "SQRT_HALF",
    "bits",
    "from_bits",
    "head_and_tail",
    "power",
]


def _interpolate(function: Any, low: float, high: float, degree: int) -> list[np.float32]:
    polynomial = Chebyshev.interpolate(function, degree, domain=[low, high]).convert(kind=Polynomial)
    return [np.float32(coefficient) for coefficient in polynomial.coef]


def _log2_ratio(f: Any) -> Any:
    """log2(1 + f) / f."""
    safe = np.where(f == 0, 1.0, f)
    return np.where(f == 0, 1 / math.log(2), np.log2(1 + safe) / safe)


LOG2_RATIO = _interpolate(_log2_ratio, math.sqrt(0.5) - 1, math.sqrt(2) - 1, 9)
EXP2 = _interpolate(np.exp2, -0.5, 0.5, 6)
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8, _L9 = LOG2_RATIO
_E0, _E1, _E2, _E3, _E4, _E5, _E6 = EXP2
_ONE, _ZERO, _HALF = np.float32(1), np.float32(0), np.float32(0.5)
SMALLEST = np.float32(np.finfo(np.float32).tiny)
LOWEST = np.float32(-125)  # 2^-125 / sqrt(2) is a normal number
SQRT_HALF = np.int32(0x3F3504F3)
MANTISSA, _HEAD = np.int32(0x7FFFFF), np.int32(-65536)
_BIAS, _SHIFT = np.int32(127), np.int32(23)


def _reinterpretation(argument: Any, result: Any, llvm_type: Any) -> Any:
    """A function of compiled code that gives the bits of a number as a number of another type."""

    def typed(typing_context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], llvm_type)

        return result(argument), generate

    return intrinsic(typed)


bits: Any = _reinterpretation(types.float32, types.int32, ir.IntType(32))
"""The bits of a float32 number, as an int32."""

from_bits: Any = _reinterpretation(types.int32, types.float32, ir.FloatType())
"""The float32 number with the bits of an int32."""


@njit(cache=True)
def head_and_tail(exponent: float) -> tuple[Any, Any]:
    """The exponent as a sum of two float32 numbers, the first of 8 significant bits: exact times a small integer."""
    head = from_bits(bits(np.float32(exponent)) & _HEAD)
    return head, np.float32(exponent - head)


@njit(cache=True, fastmath={"contract"})
def power(x: Any, head: Any, tail: Any) -> Any:
    """x^(head + tail) for float32 x in [0, 1] and an exponent above 0; 0 where that is hardly a normal number."""
    shifted = bits(x) - SQRT_HALF
    n = np.float32(shifted >> _SHIFT)
    f = from_bits((shifted & MANTISSA) + SQRT_HALF) - _ONE
    log = _L9 * f + _L8
    log = log * f + _L7
    log = log * f + _L6
    log = log * f + _L5
    log = log * f + _L4
    log = log * f + _L3
    log = log * f + _L2
    log = log * f + _L1
    log = (log * f + _L0) * f
    exponent = head + tail
    whole = np.float32(math.floor(exponent * (n + log) + _HALF))
    rest = (head * n - whole) + (tail * n + exponent * log)
    result = _E6 * rest + _E5
    result = result * rest + _E4
    result = result * rest + _E3
    result = result * rest + _E2
    result = result * rest + _E1
    result = result * rest + _E0
    kept = max(whole, LOWEST)
    scale = from_bits((np.int32(kept) + _BIAS) << _SHIFT)
    return result * scale if x >= SMALLEST and whole >= LOWEST else _ZERO
