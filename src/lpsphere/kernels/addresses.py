"""Arrays at memory addresses, for compiled code: handing over an array takes as long as computing a small layer.

Needs Numba. Nothing keeps alive what lies there: whoever passes an address must.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

__all__ = ["array_at"]


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


array_at: Any = intrinsic(_array_at)
"""array_at(address, shape, like): the C-contiguous array at an address, with elements of the type of ``like``."""
