"""A chain of sparse layers in one call, compiled by Numba: imported when first needed, by `lpsphere.kernels.chain`.

Arrays come as addresses, since handing one over takes as long as computing a small layer for one sample. A tile of
samples goes through all layers before the next one is begun, so that what lies between the layers stays in the cache.

A cached function is recompiled only where its own file has changed: after changes in `compiled`, delete the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.extending import intrinsic

from lpsphere.kernels.addresses import array_at
from lpsphere.kernels.compiled import REGISTER, Emitter, add_samples, bounded_multiply, gather

__all__ = ["run", "run_back", "run_keeping", "run_parallel"]


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
    for j in range(0, whole_columns, lanes):  # as few pages of y at a time as possible
        for i in range(0, whole_rows, lanes):
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
    pointers = array_at(layer[0], (neurons + 1,), np.int32(0))
    columns = array_at(layer[1], (connections,), np.int32(0))
    values = array_at(layer[2], (connections,), like)
    bias = array_at(layer[3], (neurons if layer[3] else 0,), like)
    given = array_at(x, (layer[4], samples), like)
    there, least = array_at(y, (neurons, samples), like), like if layer[7] else type(like)(-np.inf)
    bounded_multiply(pointers, columns, values, bias, given, there, 0, neurons, least, values[:0])


@njit(nogil=True)
def _bring(x: Any, turned: int, features: int, batch: int, first: int, last: int, place: int) -> None:
    """The samples first..last of x as a tile, feature by feature, at a place."""
    samples = last - first
    there = array_at(place, (features * samples,), x.dtype.type(0))
    if turned:
        _copy(x, first, batch, features, samples, there, 0, samples)
    else:
        _transpose(x, first * features, features, samples, features, there, 0, samples)


@njit(nogil=True)
def _take(y: Any, turned: int, features: int, batch: int, first: int, last: int, place: int) -> None:
    """The tile at a place as the samples first..last of y."""
    samples = last - first
    there = array_at(place, (features * samples,), y.dtype.type(0))
    if turned:
        _copy(there, 0, samples, features, samples, y, first, batch)
    else:
        _transpose(there, 0, samples, features, samples, y, first * features, features)


@njit(nogil=True)
def _tile(
    plan: Any, x: Any, x_turned: int, y: Any, y_turned: int, batch: int, first: int, last: int, room: Any
) -> None:
    """All layers for the samples first..last, with `_room` for what lies between two layers, and the next two."""
    count, samples, like = len(plan), last - first, x.dtype.type(0)
    alone = samples == batch
    places = _places(room)
    given, result = places
    if x_turned and alone:
        given = np.intp(x.ctypes.data)
    else:
        _bring(x, x_turned, plan[0, 4], batch, first, last, given)
    for i in range(count):
        if alone and y_turned and i == count - 1:
            result = np.intp(y.ctypes.data)
        _layer(plan[i], given, result, samples, like)
        given, result = result, places[i % 2]
    if not (alone and y_turned):
        _take(y, y_turned, plan[count - 1, 5], batch, first, last, given)


@njit(nogil=True)
def _places(room: Any) -> tuple[int, int]:
    """The addresses of the two halves of a `_room`."""
    start = (np.intp(room.ctypes.data) + REGISTER - 1) // REGISTER * REGISTER  # no vector may lie on two cache lines
    return start, start + (room.size - REGISTER) // 2


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
    rows = array_at(plan, (layers, 8), np.int64(0))
    inputs = array_at(x, (batch * rows[0, 4],), like)
    outputs = array_at(y, (batch * rows[layers - 1, 5],), like)
    room = _room(rows, min(batch, tile), inputs.itemsize)
    for first in range(0, batch, tile):
        _tile(rows, inputs, x_turned, outputs, y_turned, batch, first, min(batch, first + tile), room)


@njit(nogil=True, cache=True, parallel=True)
def run_parallel(
    plan: int, layers: int, x: int, x_turned: int, y: int, y_turned: int, batch: int, tile: int, like: Any
) -> None:
    """`run` with the tiles shared among the threads."""
    rows = array_at(plan, (layers, 8), np.int64(0))
    inputs = array_at(x, (batch * rows[0, 4],), like)
    outputs = array_at(y, (batch * rows[layers - 1, 5],), like)
    for i in prange((batch + tile - 1) // tile):
        room = _room(rows, min(batch, tile), inputs.itemsize)
        _tile(rows, inputs, x_turned, outputs, y_turned, batch, i * tile, min(batch, (i + 1) * tile), room)


@njit(nogil=True)
def _kept_features(plan: Any, layers: int) -> int:
    """How many numbers so many layers give for a sample."""
    features = 0
    for i in range(layers):
        features += plan[i, 5]
    return features


@njit(nogil=True, cache=True)
def run_keeping(
    plan: int, layers: int, x: int, x_turned: int, y: int, batch: int, tile: int, kept: int, like: Any
) -> None:
    """`run`, keeping what every layer gives for `run_back`, tile by tile and layer by layer; a row of y is a sample."""
    rows = array_at(plan, (layers, 8), np.int64(0))
    inputs = array_at(x, (batch * rows[0, 4],), like)
    outputs = array_at(y, (batch * rows[layers - 1, 5],), like)
    room = _room(rows, min(batch, tile), inputs.itemsize)
    for first in range(0, batch, tile):
        last = min(batch, first + tile)
        samples, given = last - first, _places(room)[0]
        result = kept + first * _kept_features(rows, layers) * inputs.itemsize
        _bring(inputs, x_turned, rows[0, 4], batch, first, last, given)
        for i in range(layers):
            _layer(rows[i], given, result, samples, like)
            given, result = result, result + rows[i, 5] * samples * inputs.itemsize
        _take(outputs, 0, rows[layers - 1, 5], batch, first, last, given)


@njit(nogil=True)
def _layer_back(
    layer: Any,
    back: Any,
    dv: Any,
    totals: Any,
    ordered: Any,
    given: int,
    gated: int,
    dy: int,
    dx: int,
    samples: int,
    like: Any,
) -> None:
    """Add the gradients of a layer's weights and biases to dv and totals; dX = W' dY, unless the address of dX is 0.

    dX is what goes back through the ReLU that gave the layer's input, if it is gated.
    """
    features, neurons, connections = layer[4], layer[5], layer[6]
    d, x = array_at(dy, (neurons, samples), like), array_at(given, (features, samples), like)
    pointers = array_at(layer[0], (neurons + 1,), np.int32(0))
    columns = array_at(layer[1], (connections,), np.int32(0))
    add_samples(pointers, columns, d, x, dv, totals, 0, neurons)
    if dx:
        by_feature = array_at(back[0], (features + 1,), np.int32(0))
        rows = array_at(back[1], (connections,), np.int32(0))
        y, gate = array_at(dx, (features, samples), like), array_at(given, (features if gated else 0, samples), like)
        bounded_multiply(by_feature, rows, ordered, ordered[:0], d, y, 0, features, type(like)(-np.inf), gate)


@njit(nogil=True, cache=True)
def run_back(
    plan: int,
    back: int,
    moving: int,
    layers: int,
    x: int,
    x_turned: int,
    dy: int,
    dy_turned: int,
    dx: int,
    batch: int,
    tile: int,
    kept: int,
    like: Any,
) -> None:
    """The gradients of all weights and biases and, unless its address is 0, of the input, which lies as that does.

    A row of ``back`` is a layer: the addresses of the pointers and neurons of its connections by feature, and of the
    places of those among its own. What moves are the addresses of the weights and, where the plan has any, biases of
    each layer, and after them those of where the gradients of these go.
    """
    rows, backs = array_at(plan, (layers, 8), np.int64(0)), array_at(back, (layers, 3), np.int64(0))
    features, neurons, final = rows[0, 4], rows[layers - 1, 5], rows[layers - 1, 7]
    inputs, given_dy = array_at(x, (batch * features,), like), array_at(dy, (batch * neurons,), like)
    wanted_dx = array_at(dx, (batch * features if dx else 0,), like)
    floats = layers
    for i in range(layers):
        floats += rows[i, 3] != 0
    addresses = array_at(moving, (2 * floats,), np.int64(0))
    ordered = np.empty(rows[:, 6].sum(), inputs.dtype)
    starts, gradients, k = np.zeros(layers + 1, np.intp), np.zeros((layers, 2), np.intp), 0
    for i in range(layers):
        count = rows[i, 6]
        starts[i + 1] = starts[i] + count
        if i or dx:
            order = array_at(backs[i, 2], (count,), np.int32(0))
            gather(array_at(addresses[k], (count,), like), order, ordered[starts[i] : starts[i + 1]])
        gradients[i, 0] = addresses[floats + k]
        array_at(gradients[i, 0], (count,), like)[:] = 0
        k += 1
        if rows[i, 3]:
            gradients[i, 1] = addresses[floats + k]
            array_at(gradients[i, 1], (rows[i, 5],), like)[:] = 0
            k += 1
    room = _room(rows, min(batch, tile), inputs.itemsize)
    room_of_input = _room(rows[:1], min(batch, tile), inputs.itemsize)
    for first in range((batch - 1) // tile * tile, -1, -tile):  # what came last may still be in the cache
        last, (d, other) = min(batch, first + tile), _places(room)
        size = (last - first) * inputs.itemsize
        place = kept + (first * inputs.itemsize) * _kept_features(rows, layers)
        _bring(given_dy, dy_turned, neurons, batch, first, last, d)
        if final:
            _close(place + _kept_features(rows, layers - 1) * size, d, neurons * (last - first), like)
        for i in range(layers - 1, -1, -1):
            given = place + _kept_features(rows, i - 1) * size if i else _places(room_of_input)[0]
            if i == 0:
                _bring(inputs, x_turned, features, batch, first, last, given)
            gated, wanted = rows[i - 1, 7] if i else 0, i or dx
            dv = array_at(gradients[i, 0], (rows[i, 6],), like)
            totals = array_at(gradients[i, 1], (rows[i, 5] if gradients[i, 1] else 0,), like)
            values = ordered[starts[i] : starts[i + 1]]
            _layer_back(
                rows[i], backs[i], dv, totals, values, given, gated, d, other if wanted else 0, last - first, like
            )
            d, other = other, d
        if dx:
            _take(wanted_dx, x_turned, features, batch, first, last, d)


@njit(nogil=True)
def _close(y: int, dy: int, count: int, like: Any) -> None:
    """What goes back through a ReLU: dY where Y is above 0."""
    there, passed = array_at(y, (count,), like), array_at(dy, (count,), like)
    for i in range(count):
        passed[i] = like if there[i] <= 0 else passed[i]
