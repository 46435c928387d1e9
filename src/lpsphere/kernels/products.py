"""The three products of a sparse layer, on NumPy arrays: Y = W X + b, dX = W' dY, and dW at the connections alone.

Dense arrays are *feature-major*: shape (features, batch), C-contiguous, so that the inner loops run over the batch.
Work is divided among torch's threads (`torch.set_num_threads`) where there is enough of it; the results do not depend
on their number, since a neuron is always computed by one of them, in the same order.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lpsphere.kernels.index import ConnectionIndex

__all__ = ["multiply", "multiply_transposed", "sample"]

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]

_PARALLEL_WORK = 2**20
"""Multiply-adds that take one thread about twice the 10 microseconds by which two threads start later."""

_team = threading.Lock()
"""Held while the compiled loops run in parallel: not every threading layer of Numba can be entered twice."""


def multiply(index: ConnectionIndex, values: Floats, x: Floats, y: Floats, bias: Floats | None = None) -> None:
    """Write W X + bias into Y.

    Args:
        index: The connections of W.
        values: Their weights, shape (connections,), float32 or float64; the other arrays are of the same type.
        x: Shape (in_features, batch), feature-major.
        y: Shape (out_features, batch), feature-major; overwritten, must not overlap with the others.
        bias: Shape (out_features,), added to every sample, or None.

    Raises:
        TypeError: If an array is not of the type of ``values``, or that is neither float32 nor float64.
        ValueError: If an array has another shape, or is not C-contiguous.
    """
    bias = values[:0] if bias is None else checked("bias", bias, (index.out_features,), values.dtype)
    _multiply(index, values, x, y, bias)


def multiply_transposed(index: ConnectionIndex, values: Floats, dy: Floats, dx: Floats) -> None:
    """Write W' dY, the gradient of the input, into dX.

    Args:
        index: The connections of W.
        values: Their weights, shape (connections,), float32 or float64; the other arrays are of the same type.
        dy: Shape (out_features, batch), feature-major.
        dx: Shape (in_features, batch), feature-major; overwritten, must not overlap with the others.

    Raises:
        TypeError, ValueError: As `multiply`.
    """
    from lpsphere.kernels import compiled

    checked("values", values, (index.connections,), values.dtype)
    by_feature, order = index.transposed
    ordered = np.empty_like(values)
    compiled.gather(values, order, ordered)
    _multiply(by_feature, ordered, dy, dx, values[:0], names=("dy", "dx"))


def sample(index: ConnectionIndex, dy: Floats, x: Floats, dv: Floats) -> None:
    """Write dY X' at the connections, the gradient of their weights, into dv: dv[k] = <dY[row of k], X[column of k]>.

    Args:
        index: The connections.
        dy: Shape (out_features, batch), feature-major.
        x: Shape (in_features, batch), feature-major.
        dv: Shape (connections,), float32 or float64, as the others are; overwritten, must not overlap with them.

    Raises:
        TypeError, ValueError: As `multiply`.
    """
    from lpsphere.kernels import compiled

    batch = x.shape[-1] if x.ndim else 0
    checked("dv", dv, (index.connections,), dv.dtype)
    checked("x", x, (index.in_features, batch), dv.dtype)
    checked("dy", dy, (index.out_features, batch), dv.dtype)
    threads = threads_for(index.connections * batch)
    team = team_of(threads)
    if team is not None:
        with team:
            compiled.sample_parallel(index.pointers, index.columns, dy, x, dv, index.pieces(threads))
    else:
        compiled.sample(index.pointers, index.columns, dy, x, dv, 0, index.out_features)


def _multiply(
    index: ConnectionIndex, values: Floats, x: Floats, y: Floats, bias: Floats, names: tuple[str, str] = ("x", "y")
) -> None:
    from lpsphere.kernels import compiled

    batch = x.shape[-1] if x.ndim else 0
    checked("values", values, (index.connections,), values.dtype)
    checked(names[0], x, (index.in_features, batch), values.dtype)
    checked(names[1], y, (index.out_features, batch), values.dtype)
    threads = threads_for(index.connections * batch)
    team = team_of(threads)
    if team is not None:
        with team:
            compiled.multiply_parallel(index.pointers, index.columns, values, bias, x, y, index.pieces(threads))
    else:
        compiled.multiply(index.pointers, index.columns, values, bias, x, y, 0, index.out_features)


def checked(name: str, array: Floats, shape: tuple[int, ...], kind: np.dtype[Any]) -> Floats:
    """The array, if the inner loops can be trusted with it."""
    if kind not in (np.float32, np.float64) or array.dtype != kind:
        raise TypeError(f"{name} must be float32 or float64, and all arrays of one type; got {array.dtype} with {kind}")
    if array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(
            f"{name} must be C-contiguous of shape {shape}, got shape {array.shape} with strides {array.strides}"
        )
    return array


class _Team:
    """Numba's threads for one parallel product, while `_team` is held."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __enter__(self) -> None:
        import numba

        self._before = numba.get_num_threads()
        numba.set_num_threads(self.threads)

    def __exit__(self, *_: object) -> None:
        import numba

        numba.set_num_threads(self._before)
        _team.release()


def team_of(threads: int) -> _Team | None:
    """So many threads, to be used in a with statement; None for one, or where another product has them."""
    return _Team(threads) if threads > 1 and _team.acquire(blocking=False) else None


def threads_for(work: int) -> int:
    """How many threads to use for so many multiply-adds."""
    if work < _PARALLEL_WORK or torch.get_num_threads() == 1 or _forked:
        return 1
    import numba

    return min(torch.get_num_threads(), int(numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


_forked = False


def _after_fork() -> None:
    """A forked process goes on with one thread: the parent's are not there, and not every layer can start anew."""
    global _forked, _team
    _forked, _team = True, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
