"""Which connections a layer has, as index arrays in compressed rows: checked once, and trusted by the inner loops."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

__all__ = ["ConnectionIndex", "Integers"]

Integers = npt.NDArray[np.int32] | npt.NDArray[np.int64]

_LARGEST = 2**31 - 1


@dataclass(frozen=True, eq=False)
class ConnectionIndex:
    """The connections of a layer, neuron by neuron (compressed sparse rows, row = output neuron).

    Connections ``pointers[i]`` to ``pointers[i + 1]`` are those of neuron i, and connection k comes from feature
    ``columns[k]``. The arrays are kept as they are, not copied, and must not change.

    Attributes:
        pointers: int32 or int64, shape (out_features + 1,).
        columns: int32, shape (connections,), ascending within a neuron.
        in_features: Number of input features, at most 2^31 - 1.

    Raises:
        TypeError: If an array is not of these types.
        ValueError: If it is not one-dimensional and contiguous, or they describe no such structure.
    """

    pointers: Integers
    columns: npt.NDArray[np.int32]
    in_features: int
    _pieces: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_array("pointers", self.pointers, (np.int32, np.int64))
        _check_array("columns", self.columns, (np.int32,))
        if not 0 < self.in_features <= _LARGEST:
            raise ValueError(f"in_features must be from 1 to {_LARGEST}, got {self.in_features}")
        _check_pointers(self.pointers, self.columns.size)
        _check_columns(self.pointers, self.columns, self.in_features)

    @property
    def out_features(self) -> int:
        """Number of neurons."""
        return int(self.pointers.size) - 1

    @property
    def connections(self) -> int:
        """Number of connections."""
        return int(self.columns.size)

    @cached_property
    def transposed(self) -> tuple[ConnectionIndex, Integers]:
        """The connections by the feature they come from, made when first asked for.

        Returns:
            Their index, whose rows are the input features and whose columns the neurons; and for each of them,
            shape (connections,), its place among the connections of this index.
        """
        places = np.arange(self.connections, dtype=np.int32 if self.connections <= _LARGEST else np.int64)
        shape = (self.out_features, self.in_features)
        by_column = csr_array((places, self.columns, self.pointers), shape=shape).tocsc()
        neurons = by_column.indices.astype(np.int32, copy=False)
        return ConnectionIndex(by_column.indptr, neurons, self.out_features), by_column.data

    def pieces(self, count: int) -> npt.NDArray[np.int64]:
        """Where to cut the neurons into ``count`` pieces with about as many connections each.

        Args:
            count: Number of pieces, at least 1.

        Returns:
            Shape (count + 1,): piece i is the neurons from entry i to entry i + 1. Some may be empty.
        """
        if count not in self._pieces:
            shares = np.linspace(0, self.connections, count + 1)
            cuts = np.searchsorted(self.pointers, shares).astype(np.int64)
            cuts[0], cuts[-1] = 0, self.out_features
            self._pieces[count] = cuts
        return self._pieces[count]


def _check_array(name: str, array: Any, kinds: tuple[type, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype not in kinds:
        given = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        allowed = " or ".join(np.dtype(kind).name for kind in kinds)
        raise TypeError(f"{name} must be a NumPy array of {allowed}, got {given}")
    if array.ndim != 1 or not array.flags.c_contiguous:
        raise ValueError(f"{name} must be one-dimensional and contiguous, got shape {array.shape}")


def _check_pointers(pointers: Integers, connections: int) -> None:
    if pointers.size < 1 or pointers[0] != 0 or pointers[-1] != connections or (np.diff(pointers) < 0).any():
        ends = f"from {pointers[0]} to {pointers[-1]}" if pointers.size else "nowhere"
        raise ValueError(
            f"pointers must rise from 0 to the number of connections, {connections}, and never fall; they go {ends}"
        )


def _check_columns(pointers: Integers, columns: npt.NDArray[np.int32], in_features: int) -> None:
    if not columns.size:
        return
    if columns.min() < 0 or columns.max() >= in_features:
        raise ValueError(
            f"columns must be from 0 to {in_features - 1}, the input features; they go from {columns.min()} to "
            f"{columns.max()}"
        )
    falls = columns[1:] <= columns[:-1]
    starts = pointers[1:-1]
    falls[starts[(starts > 0) & (starts < columns.size)] - 1] = False  # the next neuron begins there
    if falls.any():
        k = int(falls.argmax())
        raise ValueError(
            f"the columns of a neuron must ascend without repetition: connections {k} and {k + 1} of one neuron come "
            f"from features {columns[k]} and {columns[k + 1]}"
        )
