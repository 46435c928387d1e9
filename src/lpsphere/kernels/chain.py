"""Sparse layers one after another in one compiled call, and their gradients in another. On memory addresses."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lpsphere.kernels.index import ConnectionIndex
from lpsphere.kernels.products import Floats, checked, team_of, threads_for

__all__ = ["ChainLayer", "LayerChain"]

_TILE = 256
"""Bytes of a row of a tile, the samples that go through all layers together: with 4096 features it fills 1 MiB."""


@dataclass(frozen=True, eq=False)
class ChainLayer:
    """W X + b, or what of it is above 0.

    Attributes:
        index: The connections of W.
        values: Their weights, shape (connections,), float32 or float64.
        bias: Shape (out_features,), of the same type, or None.
        relu: Whether negative outputs become 0; NaN stays.
    """

    index: ConnectionIndex
    values: Floats
    bias: Floats | None
    relu: bool


class LayerChain:
    """Layers whose arrays are read where they are, at every run: they are kept, and must not move.

    Attributes:
        kept_features: How many numbers `run_keeping` keeps for each sample.

    Args:
        layers: At least one; each takes what the one before it returns.

    Raises:
        TypeError: If the arrays are not of one type, float32 or float64, or pointers are not int32.
        ValueError: If an array has another shape, is not C-contiguous, or two layers do not fit.
    """

    def __init__(self, layers: Sequence[ChainLayer]) -> None:
        from lpsphere.kernels import compiled_chain

        self.layers = tuple(layers)
        kind = self.layers[0].values.dtype
        plan = np.zeros((len(self.layers), 8), np.int64)
        features = self.layers[0].index.in_features
        for row, layer in zip(plan, self.layers, strict=True):
            index = layer.index
            if index.in_features != features:
                raise ValueError(f"a layer takes {index.in_features} features, and there are {features}")
            if index.pointers.dtype != np.int32:
                raise TypeError(f"the pointers must be int32, got {index.pointers.dtype}")
            features = index.out_features
            values = checked("values", layer.values, (index.connections,), kind)
            bias = 0 if layer.bias is None else checked("bias", layer.bias, (features,), kind).ctypes.data
            row[:4] = index.pointers.ctypes.data, index.columns.ctypes.data, values.ctypes.data, bias
            row[4:] = index.in_features, features, index.connections, layer.relu
        self._plan = plan
        self._arguments = plan.ctypes.data, len(plan)
        self.kept_features = sum(layer.index.out_features for layer in self.layers)
        self._connections = sum(layer.index.connections for layer in self.layers)
        self._tile, self._zero = _TILE // kind.itemsize, kind.type(0)
        self._run, self._run_parallel = compiled_chain.run, compiled_chain.run_parallel
        self._run_keeping, self._run_back = compiled_chain.run_keeping, compiled_chain.run_back

    def run(self, x: int, x_order: int, y: int, y_order: int, batch: int) -> bool:
        """Write what the layers make of X into Y, in as many threads as the products of `multiply` would take.

        Args:
            x: Address of batch * in_features numbers of the layers' type.
            x_order: How they lie there: 1 feature by feature, 0 sample by sample.
            y: Address of room for batch * out_features of them; must not overlap with x.
            y_order: How to lay them there, likewise.
            batch: Number of samples.

        Returns:
            Whether it was done. It was not where there are too few samples for the threads, which then had better share
            the neurons of one layer after another.
        """
        threads = threads_for(self._connections * batch)
        if threads > 1:
            if batch <= self._tile * (threads - 1):
                return False
            team = team_of(threads)
            if team is not None:
                with team:
                    self._run_parallel(*self._arguments, x, x_order, y, y_order, batch, self._tile, self._zero)
                return True
        in_place = x_order and y_order and len(self.layers) == 1  # nothing to bring into another order or to keep
        tile = max(1, batch) if in_place else self._tile
        self._run(*self._arguments, x, x_order, y, y_order, batch, tile, self._zero)
        return True

    def worth_keeping(self, batch: int) -> bool:
        """Whether `run_keeping` is the way for so many samples.

        It is not where there is work for several threads: they had better share the neurons of one layer after another.
        """
        return threads_for(self._connections * batch) == 1

    def run_keeping(self, x: int, x_order: int, y: int, batch: int, kept: int) -> None:
        """As `run`, in one thread, keeping what `run_back` needs.

        Args:
            x: Address of batch * in_features numbers of the layers' type.
            x_order: How they lie there: 1 feature by feature, 0 sample by sample.
            y: Address of room for batch * out_features of them, sample by sample.
            batch: Number of samples.
            kept: Address of room for batch * kept_features of them. No two of these may overlap.
        """
        self._run_keeping(*self._arguments, x, x_order, y, batch, self._tile, kept, self._zero)

    def run_back(
        self,
        floats: Sequence[int],
        gradients: Sequence[int],
        x: tuple[int, int],
        dy: tuple[int, int],
        dx: int,
        batch: int,
        kept: int,
    ) -> None:
        """Write the gradients of all layers' weights and biases, and of the input.

        Args:
            floats: Addresses of the weights and, if it has any, biases of each layer, as they were in `run_keeping`.
            gradients: Addresses of where the gradients of those go.
            x: Address and order of the input, as there.
            dy: Address of the gradient of y, batch * out_features numbers, and their order, likewise.
            dx: Address of room for the gradient of x, which is laid there as x is; 0: not wanted.
            batch: Number of samples.
            kept: Address of what `run_keeping` kept.
        """
        moving, back = array("q", (*floats, *gradients)), self._back
        plan, layers = self._arguments
        addresses = plan, back[0], moving.buffer_info()[0]
        self._run_back(*addresses, layers, *x, *dy, dx, batch, self._tile, kept, self._zero)

    @cached_property
    def _back(self) -> tuple[int, object]:
        """The address of what `run_back` needs beside the plan, a row a layer, and what must be kept with it."""
        transposed = [layer.index.transposed for layer in self.layers]
        plan = np.array(
            [(index.pointers.ctypes.data, index.columns.ctypes.data, order.ctypes.data) for index, order in transposed],
            np.int64,
        )
        return plan.ctypes.data, (plan, transposed)
