"""A chain of sparse layers in one call, compiled by Numba: imported when first needed, by `lpsphere.kernels.chain`.

Arrays come as addresses, since handing one over takes as long as computing a small layer for one sample. A tile of
samples goes through all layers before the next one is begun, so that what lies between the layers stays in the cache.

A cached function is recompiled only where its own file has changed: after changes in `compiled`, delete the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from lpsphere.kernels.compiled import REGISTER, Emitter, multiply

__all__ = ["run", "run_parallel"]


def _array_at(_: Any, address: Any, shape: Any, like: Any) -> Any:
    """The C-contiguous array at an address, with elements of the type of ``like``."""
    result = types.Array(like, shape.count, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(result)(context, builder)
        size = context.get_abi_sizeof(context.get_value_type(like))
        sizes, strides = cgutils.unpack_tuple(builder, arguments[1]), [context.get_constant(types.intp, size)]  # type: ignore[no-untyped-call]
        for count in sizes[:0:-1]:
            strides.insert(0, builder.mul(strides[0], count))
        populate_array(  # type: ignore[no-untyped-call]
            array,
            data=builder.inttoptr(arguments[0], array.data.type),
            shape=cgutils.pack_array(builder, sizes),  # type: ignore[no-untyped-call]
            strides=cgutils.pack_array(builder, strides),  # type: ignore[no-untyped-call]
            itemsize=strides[-1],
            meminfo=None,
        )
        return array._getvalue()

    return result(address, shape, like), generate


_array: Any = intrinsic(_array_at)


def _transposed_block(_: Any, x: Any, start: Any, stride: Any, y: Any, place: Any, width: Any) -> Any:
    """`_transpose` of as many rows and columns as a register has elements."""
    result = types.void(x, start, stride, y, place, width)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = Emitter(context, builder, signature.args, arguments, x.dtype)
        lanes = REGISTER // emit.bytes
        start, stride, place, width = arguments[1], arguments[2], arguments[4], arguments[5]

        def row(first: Any, step: Any, number: int) -> Any:
            return builder.add(first, builder.mul(step, emit.constant(number)))

        rows = [emit.load(emit.data(0), row(start, stride, i), lanes) for i in range(lanes)]
        low = [lane // 2 + lane % 2 * lanes for lane in range(lanes)]
        high = [lane + lanes // 2 for lane in low]
        for _ in range(lanes.bit_length() - 1):  # interleave each row of the first half with its like in the second
            pairs = list(zip(rows[: lanes // 2], rows[lanes // 2 :], strict=True))
            rows = [emit.shuffle(a, b, chosen) for a, b in pairs for chosen in (low, high)]
        for j, vector in enumerate(rows):
            emit.store(vector, emit.data(3), row(place, width, j))
        return context.get_dummy_value()

    return result, generate


_transpose_block: Any = intrinsic(_transposed_block)


@njit(nogil=True)
def _transpose(x: Any, start: int, stride: int, rows: int, columns: int, y: Any, place: int, width: int) -> None:
    """y[place + j * width + i] = x[start + i * stride + j], for i below ``rows`` and j below ``columns``."""
    lanes = REGISTER // x.itemsize
    whole_rows, whole_columns = rows - rows % lanes, columns - columns % lanes
    for i in range(0, whole_rows, lanes):
        for j in range(0, whole_columns, lanes):
            _transpose_block(x, start + i * stride + j, stride, y, place + j * width + i, width)
    for i in range(rows):
        for j in range(whole_columns if i < whole_rows else 0, columns):
            y[place + j * width + i] = x[start + i * stride + j]


def _copied_register(_: Any, x: Any, start: Any, y: Any, place: Any) -> Any:
    """As many elements of y from ``place`` on as a register has, from those of x from ``start`` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = Emitter(context, builder, signature.args, arguments, x.dtype)
        emit.store(emit.load(emit.data(0), arguments[1], REGISTER // emit.bytes), emit.data(2), arguments[3])
        return context.get_dummy_value()

    return types.void(x, start, y, place), generate


_copy_register: Any = intrinsic(_copied_register)


@njit(nogil=True)
def _copy(x: Any, start: int, stride: int, rows: int, columns: int, y: Any, place: int, width: int) -> None:
    """y[place + i * width + j] = x[start + i * stride + j], for i below ``rows`` and j below ``columns``."""
    lanes = REGISTER // x.itemsize
    whole = columns - columns % lanes
    for i in range(rows):
        for j in range(0, whole, lanes):
            _copy_register(x, start + i * stride + j, y, place + i * width + j)
        for j in range(whole, columns):
            y[place + i * width + j] = x[start + i * stride + j]


@njit(nogil=True)
def _layer(layer: Any, x: int, y: int, samples: int, like: Any) -> None:
    """Y = W X + b, or what of it is above 0, where the plan says so."""
    neurons, connections = layer[5], layer[6]
    pointers = _array(layer[0], (neurons + 1,), np.int32(0))
    columns = _array(layer[1], (connections,), np.int32(0))
    values = _array(layer[2], (connections,), like)
    bias = _array(layer[3], (neurons if layer[3] else 0,), like)
    given = _array(x, (layer[4], samples), like)
    multiply(pointers, columns, values, bias, given, _array(y, (neurons, samples), like), 0, neurons)
    if layer[7]:
        flat = _array(y, (neurons * samples,), like)
        for i in range(flat.size):
            flat[i] = like if flat[i] < 0 else flat[i]


@njit(nogil=True)
def _tile(
    plan: Any, x: Any, x_turned: int, y: Any, y_turned: int, batch: int, first: int, last: int, room: Any
) -> None:
    """All layers for the samples first..last, with `_room` for what lies between two layers, and the next two."""
    count, samples, like = len(plan), last - first, x.dtype.type(0)
    features, neurons = plan[0, 4], plan[count - 1, 5]
    alone = samples == batch
    size = (room.size - REGISTER) // 2
    start = (np.intp(room.ctypes.data) + REGISTER - 1) // REGISTER * REGISTER  # no vector may lie on two cache lines
    places = start, start + size
    given, result = places
    if not x_turned:
        there = _array(given, (features * samples,), like)
        _transpose(x, first * features, features, samples, features, there, 0, samples)
    elif alone:
        given = np.intp(x.ctypes.data)
    else:
        there = _array(given, (features * samples,), like)
        _copy(x, first, batch, features, samples, there, 0, samples)
    for i in range(count):
        if alone and y_turned and i == count - 1:
            result = np.intp(y.ctypes.data)
        _layer(plan[i], given, result, samples, like)
        given, result = result, places[i % 2]
    there = _array(given, (neurons * samples,), like)
    if not y_turned:
        _transpose(there, 0, samples, neurons, samples, y, first * neurons, neurons)
    elif not alone:
        _copy(there, 0, samples, neurons, samples, y, first, batch)


@njit(nogil=True)
def _room(plan: Any, samples: int, bytes_each: int) -> Any:
    """Bytes for the widest of what lies between the layers, twice, and some more for their alignment."""
    widest = plan[0, 4]
    for i in range(len(plan)):
        widest = max(widest, plan[i, 5])
    size = (widest * samples * bytes_each + REGISTER - 1) // REGISTER * REGISTER
    return np.empty(2 * size + REGISTER, np.uint8)


@njit(nogil=True, cache=True)
def run(plan: int, layers: int, x: int, x_turned: int, y: int, y_turned: int, batch: int, tile: int, like: Any) -> None:
    """All layers for a batch; in x and y, where they are turned, a row is a feature, and elsewhere a sample.

    A row of the plan is a layer: the addresses of its pointers, columns, weights and biases (0: none), the numbers of
    its input features, neurons and connections, and 1 where of its outputs what is above 0 goes on.
    """
    rows = _array(plan, (layers, 8), np.int64(0))
    inputs = _array(x, (batch * rows[0, 4],), like)
    outputs = _array(y, (batch * rows[layers - 1, 5],), like)
    room = _room(rows, min(batch, tile), inputs.itemsize)
    for first in range(0, batch, tile):
        _tile(rows, inputs, x_turned, outputs, y_turned, batch, first, min(batch, first + tile), room)


@njit(nogil=True, cache=True, parallel=True)
def run_parallel(
    plan: int, layers: int, x: int, x_turned: int, y: int, y_turned: int, batch: int, tile: int, like: Any
) -> None:
    """`run` with the tiles shared among the threads."""
    rows = _array(plan, (layers, 8), np.int64(0))
    inputs = _array(x, (batch * rows[0, 4],), like)
    outputs = _array(y, (batch * rows[layers - 1, 5],), like)
    for i in prange((batch + tile - 1) // tile):
        room = _room(rows, min(batch, tile), inputs.itemsize)
        _tile(rows, inputs, x_turned, outputs, y_turned, batch, i * tile, min(batch, (i + 1) * tile), room)
