"""The dual step of LpSGD (method, section 2) on float32 rows, some at a time while they are in the cache. Needs Numba.

Rows lie end to end, of one length where all weights exist, or of as many connections as each neuron has. They are gone
through in chunks of 16, since most rows of a sparse network are too short for what compilers make of a loop; powers,
which take longest, in chunks of whatever rows lie there.

Knows arrays and addresses; nothing of parameters, groups or masks' owners.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

from lpsphere.kernels.addresses import array_at
from lpsphere.kernels.lanes import (
    LANES,
    add_product,
    entries_where,
    larger,
    largest_of,
    load,
    load_bytes,
    magnitude,
    power_of,
    scale,
    store,
    sum_of,
    weighted,
    with_sign_of,
    zeros,
)
from lpsphere.kernels.powers import head_and_tail

__all__ = ["dual_steps"]

_ONE = np.float32(1)
_ROUNDING = np.float32(16 * np.finfo(np.float32).eps)
_NORMAL, _UP = np.finfo(np.float32).tiny, np.float32(2**64)
_ENTRIES = 1024
"""Entries that are stepped at a time, if they are of several rows: those go through long chains of operations side by
side, which one row alone would wait for."""

Function = TypeVar("Function", bound=Callable[..., object])


def _compiled(function: Function) -> Function:
    options: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
    compiled: Any = njit(fastmath={"contract", "reassoc", "nsz"}, **options)(function)
    return cast(Function, compiled)


@_compiled
def dual_steps(table: int, tensors: int, constants: Any, settings: Any, flags: Any) -> None:
    """One step of every row of some tensors, in place.

    Args:
        table: Address of int64 (tensors, 9), a row a tensor: the numbers of its rows and entries; addresses of where
            each row begins and the last ends, int32 (rows + 1,), or 0 for rows of one length; of its weights w, dual
            weights v and gradient, float32 (entries,); of its momentum, likewise, or 0 for a step along the gradient;
            of its mask, bool (entries,), or 0 for all connections; of the radius of each row, float32 (rows,), or 0.
            The gradient is left as it is.
        tensors: Number of tensors.
        constants: float32 (tensors, 2), a row a tensor: the radius of all of its rows, if they have no others; what its
            gradient is multiplied by when it is added to the momentum.
        settings: p, eta, mu.
        flags: Whether the momentum is Nesterov's; whether the gradient is to be negated.
    """
    for i, row in enumerate(array_at(table, (tensors, 9), np.int64(0))):
        rows, entries = row[0], row[1]
        pointers = array_at(row[2], (rows + 1 if row[2] else 0,), np.int32(0))
        w = array_at(row[3], (entries,), np.float32(0))
        v = array_at(row[4], (entries,), np.float32(0))
        gradient = array_at(row[5], (entries,), np.float32(0))
        momentum = array_at(row[6], (entries if row[6] else 0,), np.float32(0))
        mask = array_at(row[7], (entries if row[7] else 0,), np.bool_(0))
        radii = array_at(row[8], (rows,), np.float32(0)) if row[8] else constants[i, :1]
        _step_rows(rows, pointers, w, v, gradient, momentum, mask, radii, (*settings, constants[i, 1]), flags)


@_compiled
def _step_rows(
    rows: int,
    pointers: Any,
    w: Any,
    v: Any,
    gradient: Any,
    momentum: Any,
    mask: Any,
    radii: Any,
    settings: Any,
    flags: Any,
) -> None:
    p, eta, mu, gain = settings
    q = p / (p - 1)
    length = w.size // max(1, rows)
    longest = 0 if pointers.size else length
    for i in range(pointers.size - 1):
        longest = max(longest, np.intp(pointers[i + 1] - pointers[i]))
    room = np.empty((2, max(longest, _ENTRIES) + LANES), np.float32)
    scales, totals, ends = np.empty(LANES, np.float32), np.ones(LANES, np.float32), np.empty(LANES + 1, np.intp)
    first = 0
    while first < rows:
        last = first
        ends[0] = pointers[first] if pointers.size else first * length
        while last < min(rows, first + LANES):
            ends[last + 1 - first] = pointers[last + 1] if pointers.size else (last + 1) * length
            if last > first and ends[last + 1 - first] - ends[0] > _ENTRIES:
                break
            last += 1
        those, own = ends[: last + 1 - first], radii if radii.size == 1 else radii[first:last]
        _direct(those, gradient, momentum, mask, room[0], scales, (mu, gain), flags)
        _raise(those, room[0], room[1], q)
        _total(those, room[1], room[1][:0], totals)
        _scale_by_power(scales, totals, np.float32(eta), 1 / q)
        _move(those, v, room[0], room[1], scales, np.float32(1 - eta))
        _raise(those, room[1], room[0], 1 / (p - 1))
        _total(those, room[0], room[1], totals)
        _place(those, w, v, room[1], room[0], scales, totals, own, p)
        first = last


@_compiled
def _scale_by_power(scales: Any, totals: Any, factor: Any, exponent: float) -> None:
    """The scales times factor * total^-exponent; those of a total of 0 times factor."""
    head, tail = head_and_tail(exponent)
    for k in range(LANES):
        totals[k] = _ONE / totals[k] if totals[k] != 0 else _ONE
    powers = power_of(load(totals, 0, LANES), head, tail)
    store(scales, 0, LANES, add_product(zeros(), scale(load(scales, 0, LANES), factor), powers))


@_compiled
def _direct(
    ends: Any, gradient: Any, momentum: Any, mask: Any, room: Any, scales: Any, settings: Any, flags: Any
) -> None:
    """The directions, each row divided by its largest magnitude, end to end.

    The scale of a row is 1; 0 if it is 0, and NaN if not all of it is finite. What is left of a momentum whose
    gradients have been 0 for long may be so small that the inverse would be infinite: such a row is made larger before.
    """
    mu, gain = np.float32(settings[0]), np.float32(settings[1])
    nesterov, negated = flags
    sign = np.float32(-1 if negated else 1)
    ahead, of_gradient = np.float32(mu if nesterov else 1), np.float32(sign if nesterov else 0)
    for i in range(ends.size - 1):
        largest = zeros()
        for c in range(ends[i], ends[i + 1], LANES):
            left = ends[i + 1] - c
            d = load(gradient, c, left)
            if mask.size:
                d = entries_where(load_bytes(mask, c, left), d)
            if not momentum.size:
                d = scale(d, sign)
            else:
                m = weighted(mu, load(momentum, c, left), gain * sign, d)
                store(momentum, c, left, m)
                d = weighted(ahead, m, of_gradient, d)
            store(room, c - ends[0], LANES, d)  # the zeros beyond the row make room for the next
            largest = larger(largest, d)
        found = largest_of(largest)
        if 0 < found < _NORMAL:
            _scale_row(room, ends[i] - ends[0], ends[i + 1] - ends[0], _UP)
            found *= _UP
        scales[i] = np.float32(np.nan) if not found < np.inf else np.float32(1 if found > 0 else 0)
        _scale_row(room, ends[i] - ends[0], ends[i + 1] - ends[0], _ONE / found if found > 0 else _ONE)


@_compiled
def _scale_row(room: Any, start: int, stop: int, by: Any) -> None:
    """The last row there is so far, times a number; what is beyond are zeros."""
    for c in range(start, stop, LANES):
        store(room, c, LANES, scale(load(room, c, LANES), by))


@_compiled
def _raise(ends: Any, room: Any, raised: Any, exponent: float) -> None:
    """|.|^exponent of all that is there, in chunks of several rows, where they are short.

    What is beyond the last row is arbitrary, there and here, and may not be used.
    """
    head, tail = head_and_tail(exponent)
    for c in range(0, ends[ends.size - 1] - ends[0], LANES):
        store(raised, c, LANES, power_of(magnitude(load(room, c, LANES)), head, tail))


@_compiled
def _total(ends: Any, raised: Any, factors: Any, totals: Any) -> None:
    """The total of a row is the sum of what was raised, or of its products with the magnitudes of factors, if any."""
    for i in range(ends.size - 1):
        total = zeros()
        for c in range(ends[i], ends[i + 1], LANES):
            place, left = c - ends[0], ends[i + 1] - c
            y = load(raised, place, left)
            if factors.size:
                total = add_product(total, magnitude(load(factors, place, left)), y)
            else:
                total = weighted(_ONE, total, _ONE, y)
        totals[i] = sum_of(total)


@_compiled
def _move(ends: Any, v: Any, room: Any, moved: Any, steps: Any, keep: Any) -> None:
    """The stepped v, each row divided by its largest magnitude, end to end; the step becomes 1.

    A step of 0 or NaN stays, and becomes 0 if it cancels the old v but for rounding.
    """
    for i in range(ends.size - 1):
        step, largest, before = steps[i], zeros(), zeros()
        for c in range(ends[i], ends[i + 1], LANES):
            left = ends[i + 1] - c
            old = load(v, c, left)
            new = weighted(keep, old, -step, load(room, c - ends[0], left))
            store(moved, c - ends[0], LANES, new)
            largest, before = larger(largest, new), larger(before, old)
        if step != 0 and step == step:
            found = largest_of(largest)
            cancelled = found <= _ROUNDING * keep * largest_of(before)
            steps[i] = np.float32(0 if cancelled else 1) if found == found else found
            _scale_row(moved, ends[i] - ends[0], ends[i + 1] - ends[0], _ONE / found if found > 0 else _ONE)


@_compiled
def _place(ends: Any, w: Any, v: Any, moved: Any, raised: Any, scales: Any, totals: Any, radii: Any, p: float) -> None:
    """The new v and w, normalised, where they belong."""
    head, tail = head_and_tail(1 / p)
    _scale_by_power(scales, totals, _ONE, 1 - 1 / p)
    store(totals, 0, LANES, power_of(load(totals, 0, LANES), head, tail))
    for i in range(ends.size - 1):
        by, size = scales[i], totals[i] * (radii[0] if radii.size == 1 else radii[i])
        for c in range(ends[i], ends[i + 1], LANES):
            place, left = c - ends[0], ends[i + 1] - c
            if by > 0:
                x = load(moved, place, LANES)
                store(v, c, left, scale(x, by))
                store(w, c, left, with_sign_of(scale(load(raised, place, LANES), size), x))
            elif by != by:
                store(v, c, left, scale(load(v, c, left), by))
                store(w, c, left, scale(load(w, c, left), by))
