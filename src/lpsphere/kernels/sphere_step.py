"""The dual step of LpSGD (method, section 2) on float32 rows, a neuron at a time while it is in the cache. Needs Numba.

Rows lie end to end, of one length where all weights exist, or of as many connections as each neuron has.

Knows arrays; nothing of parameters, groups or masks' owners.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from lpsphere.kernels.powers import bits, from_bits, head_and_tail, power

__all__ = ["dual_step"]

_ONE, _ZERO = np.float32(1), np.float32(0)
_NORMAL = np.int32(0x00800000)  # bits of the least number whose reciprocal is finite for certain
_UP = np.float32(2**64)
_INFINITE = np.int32(0x7F800000)  # bits of infinity; those of NaN are above
_MAGNITUDE = np.int32(0x7FFFFFFF)
_ROUNDING = np.float32(16 * np.finfo(np.float32).eps)


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def dual_step(
    pointers: Any,
    w: Any,
    v: Any,
    gradient: Any,
    momentum: Any,
    mask: Any,
    radii: Any,
    scratch: Any,
    settings: Any,
    flags: Any,
) -> None:
    """One step of every row, in place.

    Args:
        pointers: Where each row begins, and where the last ends, int64 (rows + 1,).
        w: Weights, float32 (entries,).
        v: Dual weights, as w.
        gradient: As w; left as it is.
        momentum: As w, or None for a step along the gradient.
        mask: bool, as w, or None for all connections.
        radii: Radius of each row, float32 (rows,), or of all of them, (1,).
        scratch: float32 (2, at least the entries of the longest row).
        settings: p, eta, mu and what the gradient is multiplied by when it is added to the momentum.
        flags: Whether the momentum is Nesterov's; whether the gradient is to be negated.
    """
    p, eta, mu, gain = settings
    nesterov, negated = flags
    q = p / (p - 1)
    q_head, q_tail = head_and_tail(q)
    e_head, e_tail = head_and_tail(1 / (p - 1))
    keep, mu32, gain32 = np.float32(1 - eta), np.float32(mu), np.float32(gain)
    sign = np.float32(-1 if negated else 1)
    ahead = np.float32(mu if nesterov else 1)
    of_gradient = np.float32(1 if nesterov else 0)
    direction, magnitude = scratch[0], scratch[1]
    for i in range(pointers.size - 1):
        start, stop = pointers[i], pointers[i + 1]
        n = stop - start
        wi, vi, gi = w[start:stop], v[start:stop], gradient[start:stop]
        mi = gi if momentum is None else momentum[start:stop]
        exists: Any = mask if mask is None else mask[start:stop]
        largest = np.int32(0)
        for j in range(n):
            g = sign * gi[j]
            if mask is not None:
                g = g if exists[j] else _ZERO
            d = g
            if momentum is not None:
                m = mu32 * mi[j] + gain32 * g
                mi[j] = m
                d = of_gradient * g + ahead * m
            direction[j] = d
            largest = max(largest, bits(d) & _MAGNITUDE)
        if largest == 0:
            continue
        if largest >= _INFINITE:
            for j in range(n):
                vi[j] = wi[j] = np.nan
            continue
        if largest < _NORMAL:  # what is left of a momentum whose gradients have been 0 for long
            for j in range(n):
                direction[j] *= _UP
            largest = bits(from_bits(largest) * _UP)
        scale = _ONE / from_bits(largest)
        total = _ZERO
        for j in range(n):
            total += power(abs(direction[j]) * scale, q_head, q_tail)
        step = np.float32(eta) * scale * np.float32(np.float64(total) ** (-1 / q))
        largest = np.int32(0)
        before = np.int32(0)
        for j in range(n):
            x = keep * vi[j] - step * direction[j]
            direction[j] = x
            largest = max(largest, bits(x) & _MAGNITUDE)
            before = max(before, bits(vi[j]) & _MAGNITUDE)
        if from_bits(largest) <= _ROUNDING * keep * from_bits(before):
            continue  # the step cancels the old point but for rounding
        scale = _ONE / from_bits(largest)
        total = _ZERO
        for j in range(n):
            x = abs(direction[j]) * scale
            y = power(x, e_head, e_tail)
            magnitude[j] = y
            total += x * y
        to_v = scale * np.float32(np.float64(total) ** (-1 / q))
        to_w = radii[i % radii.size] * np.float32(np.float64(total) ** (-1 / p))
        for j in range(n):
            vi[j] = direction[j] * to_v
            wi[j] = math.copysign(magnitude[j] * to_w, direction[j])
