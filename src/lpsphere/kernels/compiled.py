"""The inner loops, compiled by Numba: imported when first needed, within this package alone.

They trust their arguments: index arrays point where they should, float arrays are C-contiguous and of one type. A row
of the dense arrays is one feature, with a value for each sample of the batch; a *tile* is the part of such a row that
is held in vector registers while all connections of a neuron are gone through, so that each of them costs one load
and one multiply-add per register. Numba's own loops would load and store the result once more for every few
connections, and take about twice as long; therefore the tiles are written in the compiler's vector types here,
which it maps to the registers of the processor at hand. Only products and sums are contracted; nothing else is
relaxed, so that NaN and infinity come out as they should.

All of it is in one file because a cached function is recompiled only where its own file has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.core.errors import RequireLiteralValue
from numba.extending import intrinsic
from numba.misc.special import literally

__all__ = [
    "REGISTER",
    "Emitter",
    "add_samples",
    "bounded_multiply",
    "gather",
    "multiply",
    "multiply_parallel",
    "sample",
    "sample_parallel",
]

REGISTER = 64
"""Bytes of the longest vector registers there are."""
WIDEST = 512 if llvm.get_host_cpu_features().get("avx512f") else 256
"""Bytes of the widest tile: with the loads beside it, it fills the vector registers."""

_INT32 = ir.IntType(32)
_CONTRACT = ("contract",)


class Emitter:
    """Writes the compiler's instructions for tiles of one element type."""

    def __init__(self, context: Any, builder: Any, argument_types: Any, arguments: Any, element: Any) -> None:
        self.context, self.builder = context, builder
        self._types, self._arguments = argument_types, arguments
        self.element = context.get_value_type(element)
        self.bytes = element.bitwidth // 8
        self.integer = context.get_value_type(types.intp)

    def data(self, position: int) -> Any:
        """Where the data of the array among the arguments begins."""
        make = self.context.make_array(self._types[position])
        return make(self.context, self.builder, self._arguments[position]).data

    def size(self, position: int) -> Any:
        """How many elements the array among the arguments has."""
        make = self.context.make_array(self._types[position])
        return make(self.context, self.builder, self._arguments[position]).nitems

    def constant(self, number: int) -> Any:
        """An integer of the size of an index."""
        return ir.Constant(self.integer, number)

    def pointer(self, base: Any, offset: Any, kind: Any) -> Any:
        """Where the entry ``offset`` of an array of ``kind`` is."""
        return self.builder.gep(base, [offset], source_etype=kind)

    def vector(self, lanes: int) -> Any:
        """The type of a vector of elements."""
        return ir.VectorType(self.element, lanes)

    def load(self, base: Any, offset: Any, lanes: int) -> Any:
        """The elements from ``offset`` on, as a vector; they need not be aligned."""
        kind = self.vector(lanes)
        place = self.builder.bitcast(self.pointer(base, offset, self.element), kind.as_pointer())
        return self.builder.load(place, align=self.bytes, typ=kind)

    def store(self, vector: Any, base: Any, offset: Any) -> None:
        """Write a vector to the elements from ``offset`` on."""
        place = self.builder.bitcast(self.pointer(base, offset, self.element), vector.type.as_pointer())
        self.builder.store(vector, place, align=self.bytes)

    def load_where(self, inside: Any, base: Any, offset: Any) -> Any:
        """The elements from ``offset`` on in the lanes of a mask, and 0 in the others, which are not touched."""
        kind, place = self.vector(inside.type.count), self._masked_place(inside, base, offset)
        zeros = ir.Constant(kind, None)
        return self._call("load", kind, [place, _INT32(self.bytes), inside, zeros], kind)

    def store_where(self, inside: Any, vector: Any, base: Any, offset: Any) -> None:
        """Write the lanes of a mask to the elements from ``offset`` on."""
        place = self._masked_place(inside, base, offset)
        self._call("store", ir.VoidType(), [vector, place, _INT32(self.bytes), inside], vector.type)

    def _masked_place(self, inside: Any, base: Any, offset: Any) -> Any:
        kind = self.vector(inside.type.count)
        return self.builder.bitcast(self.pointer(base, offset, self.element), kind.as_pointer())

    def _call(self, name: str, result: Any, arguments: list[Any], kind: Any) -> Any:
        suffix = f"v{kind.count}f{8 * self.bytes}"
        function = ir.FunctionType(result, [argument.type for argument in arguments])
        full = f"llvm.masked.{name}.{suffix}.p0{suffix}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, function, full), arguments)  # type: ignore[no-untyped-call]

    def shuffle(self, one: Any, other: Any, lanes: list[int]) -> Any:
        """The given lanes of two vectors laid end to end."""
        return self.builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INT32, len(lanes)), lanes))

    def splat(self, number: Any, lanes: int) -> Any:
        """A vector with one number in every lane."""
        undefined = ir.Constant(self.vector(lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(_INT32, 0))
        return self.shuffle(first, undefined, [0] * lanes)

    def multiply_add(self, one: Any, other: Any, total: Any) -> Any:
        """The product added to the total, in one instruction where there is one."""
        product = self.builder.fmul(one, other, flags=_CONTRACT)
        return self.builder.fadd(product, total, flags=_CONTRACT)

    def loop(self, start: Any, stop: Any, step: int, body: Callable[[Any], None]) -> None:
        """Call ``body`` with the instruction that counts from ``start`` to ``stop``."""
        with cgutils.for_range_slice(self.builder, start, stop, self.constant(step), self.integer) as (number, _):
            body(number)

    def loop_by(self, start: Any, stop: Any, step: int, body: Callable[[list[Any]], None]) -> None:
        """Call ``body`` with ``step`` numbers at once, then, for what is left, with one at a time."""
        builder = self.builder
        whole = builder.sub(builder.sub(stop, start), builder.srem(builder.sub(stop, start), self.constant(step)))
        middle = builder.add(start, whole)
        self.loop(start, middle, step, lambda k: body([builder.add(k, self.constant(i)) for i in range(step)]))
        if step > 1:
            self.loop(middle, stop, 1, lambda k: body([k]))

    def row_of(self, columns: Any, kind: Any, connection: Any, stride: Any, offset: Any) -> Any:
        """Where the tile of the feature that a connection comes from begins."""
        column = self.builder.load(self.pointer(columns, connection, kind), typ=kind)
        return self.builder.add(self.builder.mul(self.builder.sext(column, self.integer), stride), offset)

    def sums(self, vectors: list[Any]) -> Any:
        """The sum over the lanes of each vector, as one vector: of 1 vector, or of 4 with at least 4 lanes each."""
        lanes, count = vectors[0].type.count, len(vectors)
        while len(vectors) > 1:
            vectors = [self._add_neighbours(a, b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
        total = vectors[0]
        while lanes > count:
            total, lanes = self._add_neighbours(total), lanes // 2
        return total

    def _add_neighbours(self, *vectors: Any) -> Any:
        """The sums of lanes 0 and 1, 2 and 3, ... of one vector, or of two laid end to end."""
        lanes = len(vectors) * vectors[0].type.count
        even = self.shuffle(vectors[0], vectors[-1], list(range(0, lanes, 2)))
        return self.builder.fadd(even, self.shuffle(vectors[0], vectors[-1], list(range(1, lanes, 2))))


def _literal(kind: Any) -> Any:
    """The value of a literal argument."""
    if not isinstance(kind, types.Literal):
        raise RequireLiteralValue("the width of a tile must be known when it is compiled")
    return kind.literal_value


@intrinsic(prefer_literal=True)
def _sum_tile(
    _: Any,
    width: Any,
    columns: Any,
    values: Any,
    x: Any,
    y: Any,
    stride: Any,
    offset: Any,
    row: Any,
    ends: Any,
    base: Any,
    least: Any,
    gate: Any,
) -> Any:
    """y[row, tile] = base + the sum over the connections ends[0]..ends[1] of value * x[column, tile].

    What is below ``least`` becomes that, and what is where ``gate``, unless it is empty, is not above 0 becomes 0.
    """
    result = types.void(width, columns, values, x, y, stride, offset, row, ends, base, least, gate)
    tile_bytes = _literal(width)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = Emitter(context, builder, signature.args, arguments, values.dtype)
        lanes, index = max(1, tile_bytes // emit.bytes), context.get_value_type(columns.dtype)
        column_data, value_data, x_data = emit.data(1), emit.data(2), emit.data(3)
        stride, offset, row, ends, base, least = arguments[5:11]
        # A register takes a product only when its last one is done: narrow tiles go on in several at once.
        totals = [_room(emit, lanes) for _ in range(_sums_at_once(tile_bytes))]
        builder.store(emit.splat(base, lanes), totals[0])
        for total in totals[1:]:
            builder.store(ir.Constant(emit.vector(lanes), None), total)

        def add(connections: list[Any]) -> None:
            for connection, total in zip(connections, totals, strict=False):
                place = emit.row_of(column_data, index, connection, stride, offset)
                value = builder.load(emit.pointer(value_data, connection, emit.element), typ=emit.element)
                old = builder.load(total, typ=emit.vector(lanes))
                new = emit.multiply_add(emit.splat(value, lanes), emit.load(x_data, place, lanes), old)
                builder.store(new, total)

        first, last = (builder.extract_value(ends, i) for i in range(2))
        emit.loop_by(first, last, len(totals), add)
        sums = [builder.load(total, typ=emit.vector(lanes)) for total in totals]
        while len(sums) > 1:
            sums = [builder.fadd(a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
        _store_bounded(emit, sums[0], builder.add(builder.mul(row, stride), offset), least, y=4, gate=11)
        return context.get_dummy_value()

    return result, generate


def _store_bounded(emit: Emitter, sums: Any, place: Any, least: Any, *, y: int, gate: int) -> None:
    """Write sums, bounded as `bounded_multiply` says, to y; y and gate are the positions of arguments."""
    builder, lanes = emit.builder, sums.type.count
    floor, zero = emit.splat(least, lanes), ir.Constant(sums.type, None)
    result = builder.select(builder.fcmp_ordered("<", sums, floor), floor, sums)
    emit.store(result, emit.data(y), place)
    with builder.if_then(builder.icmp_signed(">", emit.size(gate), emit.constant(0))):
        closed = builder.fcmp_ordered("<=", emit.load(emit.data(gate), place, lanes), zero)
        emit.store(builder.select(closed, zero, result), emit.data(y), place)


@intrinsic(prefer_literal=True)
def _sum_block(
    _: Any, width: Any, values: Any, bias: Any, x: Any, y: Any, place: Any, features: Any, least: Any, gate: Any
) -> Any:
    """`_sum_tile` for the next few rows of a matrix without gaps, which share what they load of x.

    ``place`` is (stride, offset of the tile, first row).
    """
    result = types.void(width, values, bias, x, y, place, features, least, gate)
    tile_bytes = _literal(width)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = Emitter(context, builder, signature.args, arguments, values.dtype)
        lanes, rows = max(1, tile_bytes // emit.bytes), range(_rows_at_once(tile_bytes))
        value_data, bias_data, x_data = emit.data(1), emit.data(2), emit.data(3)
        stride, offset, row = (builder.extract_value(arguments[5], i) for i in range(3))
        features, least = arguments[6:8]
        totals, numbers = [_room(emit, lanes) for _ in rows], [builder.add(row, emit.constant(i)) for i in rows]
        for total in totals:
            builder.store(ir.Constant(emit.vector(lanes), None), total)
        with builder.if_then(builder.icmp_signed(">", emit.size(2), emit.constant(0))):
            for total, number in zip(totals, numbers, strict=True):
                base = builder.load(emit.pointer(bias_data, number, emit.element), typ=emit.element)
                builder.store(emit.splat(base, lanes), total)

        def add(feature: Any) -> None:
            tile = emit.load(x_data, builder.add(builder.mul(feature, stride), offset), lanes)
            for total, number in zip(totals, numbers, strict=True):
                where = builder.add(builder.mul(number, features), feature)
                value = builder.load(emit.pointer(value_data, where, emit.element), typ=emit.element)
                old = builder.load(total, typ=emit.vector(lanes))
                builder.store(emit.multiply_add(emit.splat(value, lanes), tile, old), total)

        emit.loop(emit.constant(0), features, 1, add)
        for total, number in zip(totals, numbers, strict=True):
            sums = builder.load(total, typ=emit.vector(lanes))
            _store_bounded(emit, sums, builder.add(builder.mul(number, stride), offset), least, y=4, gate=8)
        return context.get_dummy_value()

    return result, generate


def _rows_at_once(tile_bytes: int) -> int:
    """How many rows of a matrix without gaps to compute side by side: what the vector registers hold."""
    return max(1, min(8, (1280 if WIDEST == 512 else 320) // tile_bytes))


def _room(emit: Emitter, lanes: int) -> Any:
    """A variable for a vector, which the compiler keeps in a register."""
    return cgutils.alloca_once(emit.builder, emit.vector(lanes))  # type: ignore[no-untyped-call]


def _sums_at_once(tile_bytes: int) -> int:
    """How many sums of connections are taken side by side; more were not faster by more than a tenth."""
    if tile_bytes > 2 * REGISTER:
        return 1
    return 4 if tile_bytes > 8 else 8


@intrinsic(prefer_literal=True)
def _product_tile(
    _: Any,
    width: Any,
    partly: Any,
    columns: Any,
    dy: Any,
    x: Any,
    dv: Any,
    stride: Any,
    place: Any,
    ends: Any,
    skip: Any,
    totals: Any,
) -> Any:
    """dv[k] += <dy[row, tile], x[column of k, tile]>, for the connections ends[0]..ends[1] of a row.

    ``place`` is (row, offset of the tile); where ``partly`` is 1, the tile's first ``skip`` samples do not count. The
    sum of dy[row, tile] is added to totals[row], unless that is empty.
    """
    result = types.void(width, partly, columns, dy, x, dv, stride, place, ends, skip, totals)
    tile_bytes, masked = _literal(width), _literal(partly) == 1

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = Emitter(context, builder, signature.args, arguments, dv.dtype)
        index = context.get_value_type(columns.dtype)
        lanes = max(1, tile_bytes // emit.bytes)
        part = min(lanes, REGISTER // emit.bytes)
        column_data, x_data, dv_data = emit.data(2), emit.data(4), emit.data(5)
        stride, place, ends, skip = arguments[6:10]
        row, offset = (builder.extract_value(place, i) for i in range(2))
        start = builder.add(builder.mul(row, stride), offset)
        tile = emit.load(emit.data(3), start, lanes)
        counted = _lanes_from(emit, lanes, skip) if masked else None

        def products(connection: Any) -> Any:
            other = emit.load(x_data, emit.row_of(column_data, index, connection, stride, offset), lanes)
            one = tile
            if counted is not None:
                zero = ir.Constant(emit.vector(lanes), None)
                one, other = builder.select(counted, one, zero), builder.select(counted, other, zero)
            total = ir.Constant(emit.vector(part), None)
            for lane in range(0, lanes, part):
                chosen = list(range(lane, lane + part))
                total = emit.multiply_add(emit.shuffle(one, one, chosen), emit.shuffle(other, other, chosen), total)
            return total

        def add(connections: list[Any]) -> None:
            sums = emit.sums([products(connection) for connection in connections])
            old = emit.load(dv_data, connections[0], len(connections))
            emit.store(builder.fadd(old, sums), dv_data, connections[0])

        def add_fewer(start: Any, left: Any) -> None:
            """The last of a row, fewer than four, computed as if they were four."""
            final = builder.sub(last, emit.constant(1))
            places = [builder.add(start, emit.constant(i)) for i in range(4)]
            places = [builder.select(builder.icmp_signed("<", place, final), place, final) for place in places]
            sums = emit.sums([products(place) for place in places])
            inside = builder.not_(_lanes_from(emit, 4, left))
            emit.store_where(inside, builder.fadd(emit.load_where(inside, dv_data, start), sums), dv_data, start)

        first, last = (builder.extract_value(ends, i) for i in range(2))
        if part >= 4:  # four share the steps that add up their lanes
            left = builder.and_(builder.sub(last, first), emit.constant(3))
            middle = builder.sub(last, left)
            emit.loop(first, middle, 4, lambda k: add([builder.add(k, emit.constant(i)) for i in range(4)]))
            with builder.if_then(builder.icmp_signed(">", left, emit.constant(0))):
                add_fewer(middle, left)
        else:
            emit.loop(first, last, 1, lambda k: add([k]))
        with builder.if_then(builder.icmp_signed(">", emit.size(10), emit.constant(0))):
            mine = tile if counted is None else builder.select(counted, tile, ir.Constant(emit.vector(lanes), None))
            while mine.type.count > 1:
                half = mine.type.count // 2
                low, high = (emit.shuffle(mine, mine, list(range(i, i + half))) for i in (0, half))
                mine = builder.fadd(low, high)
            emit.store(builder.fadd(emit.load(emit.data(10), row, 1), mine), emit.data(10), row)
        return context.get_dummy_value()

    return result, generate


@intrinsic(prefer_literal=True)
def _product_block(_: Any, width: Any, dy: Any, x: Any, dv: Any, place: Any, rows: Any) -> Any:
    """`_product_tile` for all features and the rows rows[0]..rows[1] of a matrix without gaps, without totals.

    A few features are loaded once for all rows. ``place`` is (stride, offset of the tile, number of features).
    """
    result = types.void(width, dy, x, dv, place, rows)
    tile_bytes = _literal(width)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = Emitter(context, builder, signature.args, arguments, dv.dtype)
        lanes = max(1, tile_bytes // emit.bytes)
        part = min(lanes, REGISTER // emit.bytes)
        stride, offset, features = (builder.extract_value(arguments[4], i) for i in range(3))
        first, last = (builder.extract_value(arguments[5], i) for i in range(2))

        def tile(data: int, row: Any) -> list[Any]:
            start = builder.add(builder.mul(row, stride), offset)
            return [
                emit.load(emit.data(data), builder.add(start, emit.constant(lane)), part)
                for lane in range(0, lanes, part)
            ]

        def add(those: list[Any]) -> None:
            given = [tile(2, feature) for feature in those]

            def add_row(row: Any) -> None:
                totals, mine = [ir.Constant(emit.vector(part), None) for _ in those], tile(1, row)
                for i, one in enumerate(mine):
                    totals = [emit.multiply_add(one, x[i], total) for x, total in zip(given, totals, strict=True)]
                where = builder.add(builder.mul(row, features), those[0])
                old = emit.load(emit.data(3), where, len(those))
                emit.store(builder.fadd(old, emit.sums(totals)), emit.data(3), where)

            emit.loop(first, last, 1, add_row)

        emit.loop_by(emit.constant(0), features, 4 if part >= 4 else 1, add)
        return context.get_dummy_value()

    return result, generate


def _lanes_from(emit: Emitter, lanes: int, skip: Any) -> Any:
    """A mask of the lanes that are not skipped."""
    kind = ir.VectorType(_INT32, lanes)
    first = emit.builder.insert_element(ir.Constant(kind, ir.Undefined), emit.builder.trunc(skip, _INT32), _INT32(0))
    skips = emit.shuffle(first, first, [0] * lanes)
    return emit.builder.icmp_signed(">=", ir.Constant(kind, list(range(lanes))), skips)


@njit(nogil=True)
def _next_tile(batch: int, start: int, element: int) -> tuple[int, int]:
    """The tile for what begins at sample ``start``: its bytes and its first sample.

    The smallest that reaches the end, beginning earlier if need be; where it would be wider than the batch, the largest
    that does not reach beyond it.
    """
    left = (batch - start) * element
    if left >= WIDEST:
        return WIDEST, start
    width = element
    while width < left:
        width *= 2
    if width <= batch * element:
        return width, batch - width // element
    return width // 2, start


@intrinsic(prefer_literal=True)
def _rows_of_block(_: Any, width: Any) -> Any:
    """How many rows `_sum_block` computes."""
    rows = _rows_at_once(_literal(width))
    return types.intp(width), lambda context, *_: context.get_constant(types.intp, rows)


@njit(nogil=True)
def _multiply_tile(
    width: int,
    pointers: Any,
    columns: Any,
    values: Any,
    bias: Any,
    x: Any,
    y: Any,
    offset: int,
    rows: tuple[int, int],
    least: Any,
    gate: Any,
) -> None:
    """One tile of `bounded_multiply`."""
    literally(width)
    start, stride, features = rows[0], x.shape[1], x.shape[0]
    if columns.size == (pointers.size - 1) * features and features > 0:
        block: int = _rows_of_block(width)  # type: ignore[call-arg]
        while start + block <= rows[1]:
            _sum_block(width, values, bias, x, y, (stride, offset, start), features, least, gate)
            start += block
    for row in range(start, rows[1]):
        base = bias[row] if bias.size else values.dtype.type(0)
        ends = (np.intp(pointers[row]), np.intp(pointers[row + 1]))
        _sum_tile(width, columns, values, x, y, stride, offset, row, ends, base, least, gate)  # type: ignore[call-arg]


@njit(nogil=True)
def bounded_multiply(
    pointers: Any, columns: Any, values: Any, bias: Any, x: Any, y: Any, first: int, last: int, least: Any, gate: Any
) -> None:
    """Y = W X + bias for the rows first..last; an empty bias is none.

    What is below ``least`` becomes that, and what is where ``gate``, of the shape of y or empty, is not above 0
    becomes 0.
    """
    size, rows, start = x.itemsize, (first, last), 0
    while start < x.shape[1]:
        width, offset = _next_tile(x.shape[1], start, size)
        if width == 512:
            _multiply_tile(512, pointers, columns, values, bias, x, y, offset, rows, least, gate)
        elif width == 256:
            _multiply_tile(256, pointers, columns, values, bias, x, y, offset, rows, least, gate)
        elif width == 128:
            _multiply_tile(128, pointers, columns, values, bias, x, y, offset, rows, least, gate)
        elif width == 64:
            _multiply_tile(64, pointers, columns, values, bias, x, y, offset, rows, least, gate)
        elif width == 32:
            _multiply_tile(32, pointers, columns, values, bias, x, y, offset, rows, least, gate)
        elif width == 16:
            _multiply_tile(16, pointers, columns, values, bias, x, y, offset, rows, least, gate)
        elif width == 8:
            _multiply_tile(8, pointers, columns, values, bias, x, y, offset, rows, least, gate)
        else:
            _multiply_tile(4, pointers, columns, values, bias, x, y, offset, rows, least, gate)
        start = offset + width // size


@njit(nogil=True)
def _sample_rows(
    width: int,
    partly: int,
    pointers: Any,
    columns: Any,
    dy: Any,
    x: Any,
    dv: Any,
    tile: tuple[int, int],
    rows: Any,
    totals: Any,
) -> None:
    literally(width)
    literally(partly)
    without_gaps = partly == 0 and columns.size == (pointers.size - 1) * x.shape[0]
    if without_gaps:
        _product_block(width, dy, x, dv, (x.shape[1], tile[0], x.shape[0]), rows)  # type: ignore[call-arg]
        if not totals.size:
            return
    for row in range(rows[0], rows[1]):
        ends = (np.intp(pointers[row]), np.intp(pointers[row + 1]))
        if without_gaps:
            ends = (ends[1], ends[1])  # no connections, for the totals alone
        _product_tile(width, partly, columns, dy, x, dv, x.shape[1], (row, tile[0]), ends, tile[1], totals)  # type: ignore[call-arg]


@njit(nogil=True)
def _sample_tile(
    width: int, pointers: Any, columns: Any, dy: Any, x: Any, dv: Any, tile: tuple[int, int], rows: Any, totals: Any
) -> None:
    """One tile, (offset, skipped samples), of `sample`."""
    literally(width)
    if tile[1] == 0:
        _sample_rows(width, 0, pointers, columns, dy, x, dv, tile, rows, totals)
    else:
        _sample_rows(width, 1, pointers, columns, dy, x, dv, tile, rows, totals)


@njit(nogil=True)
def add_samples(pointers: Any, columns: Any, dy: Any, x: Any, dv: Any, totals: Any, first: int, last: int) -> None:
    """Add the products <dy[row], x[column]> of the connections of the rows first..last to dv.

    The sums of these rows of dy are added to the totals, unless those are empty.
    """
    size, rows, start = x.itemsize, (first, last), 0
    while start < x.shape[1]:
        width, offset = _next_tile(x.shape[1], start, size)
        tile = (offset, start - offset)
        if width == 512:
            _sample_tile(512, pointers, columns, dy, x, dv, tile, rows, totals)
        elif width == 256:
            _sample_tile(256, pointers, columns, dy, x, dv, tile, rows, totals)
        elif width == 128:
            _sample_tile(128, pointers, columns, dy, x, dv, tile, rows, totals)
        elif width == 64:
            _sample_tile(64, pointers, columns, dy, x, dv, tile, rows, totals)
        elif width == 32:
            _sample_tile(32, pointers, columns, dy, x, dv, tile, rows, totals)
        elif width == 16:
            _sample_tile(16, pointers, columns, dy, x, dv, tile, rows, totals)
        elif width == 8:
            _sample_tile(8, pointers, columns, dy, x, dv, tile, rows, totals)
        else:
            _sample_tile(4, pointers, columns, dy, x, dv, tile, rows, totals)
        start = offset + width // size


@njit(nogil=True, cache=True)
def sample(pointers: Any, columns: Any, dy: Any, x: Any, dv: Any, first: int, last: int) -> None:
    """The products <dy[row], x[column]> of the connections of the rows first..last."""
    dv[pointers[first] : pointers[last]] = 0
    add_samples(pointers, columns, dy, x, dv, dv[:0], first, last)


@njit(nogil=True, cache=True)
def multiply(pointers: Any, columns: Any, values: Any, bias: Any, x: Any, y: Any, first: int, last: int) -> None:
    """Y = W X + bias for the rows first..last; an empty bias is none."""
    bounded_multiply(pointers, columns, values, bias, x, y, first, last, values.dtype.type(-np.inf), values[:0])


@njit(nogil=True, cache=True, parallel=True)
def multiply_parallel(pointers: Any, columns: Any, values: Any, bias: Any, x: Any, y: Any, pieces: Any) -> None:
    """`multiply` for the rows pieces[0]..pieces[1], pieces[1]..pieces[2], ..., each on a thread."""
    for i in prange(pieces.size - 1):
        multiply(pointers, columns, values, bias, x, y, pieces[i], pieces[i + 1])


@njit(nogil=True, cache=True, parallel=True)
def sample_parallel(pointers: Any, columns: Any, dy: Any, x: Any, dv: Any, pieces: Any) -> None:
    """`sample` for the rows pieces[0]..pieces[1], pieces[1]..pieces[2], ..., each on a thread."""
    for i in prange(pieces.size - 1):
        sample(pointers, columns, dy, x, dv, pieces[i], pieces[i + 1])


@njit(nogil=True, cache=True)
def gather(values: Any, order: Any, out: Any) -> None:
    """out[i] = values[order[i]]."""
    for i in range(order.size):
        out[i] = values[order[i]]
