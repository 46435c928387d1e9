"""Where the neurons lie in a weight tensor: along its dimensions, or as segments of what a sparse layer holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lpsphere.geometry import Dims, Segments

__all__ = ["Layout", "NeuronLayout", "SegmentLayout", "SparseLayer"]


@dataclass(frozen=True)
class NeuronLayout:
    """Where the neurons lie in a weight tensor.

    Attributes:
        neuron_dim: The dimension that counts the neurons, within one group.
        groups: Independent groups along dimension 0 (a grouped transposed convolution has its fan-in there).
    """

    neuron_dim: int = 0
    groups: int = 1

    def split(self, weight: Tensor) -> Tensor:
        """A view of ``weight`` in which whole dimensions count neurons: the groups are split off dimension 0."""
        return weight if self.groups == 1 else weight.view(self.groups, -1, *weight.shape[1:])

    def fan_in_dims(self, weight: Tensor) -> tuple[int, ...]:
        """The dimensions of ``split(weight)`` that make up one neuron."""
        shift = 0 if self.groups == 1 else 1
        neuron_dims = {self.neuron_dim + shift} | ({0} if shift else set())
        return tuple(d for d in range(weight.ndim + shift) if d not in neuron_dims)

    def to_rows(self, weight: Tensor) -> Tensor:
        """``weight`` as rows, shape (neurons, fan_in); a copy where the memory order asks for one."""
        split, dims = self.split(weight), self.fan_in_dims(weight)
        neuron_dims = [d for d in range(split.ndim) if d not in dims]
        return split.permute(*neuron_dims, *dims).reshape(self.neurons(weight), math.prod(split.shape[d] for d in dims))

    def from_rows(self, rows: Tensor, like: Tensor) -> Tensor:
        """The inverse of `to_rows`, in the shape of ``like``."""
        split, dims = self.split(like), self.fan_in_dims(like)
        order = [*(d for d in range(split.ndim) if d not in dims), *dims]
        inverse = sorted(range(split.ndim), key=order.__getitem__)
        return rows.reshape([split.shape[d] for d in order]).permute(inverse).reshape(like.shape)

    def neurons(self, weight: Tensor) -> int:
        """The number of neurons."""
        return weight.shape[0] if self.neuron_dim == 0 else self.groups * weight.shape[self.neuron_dim]

    def fan_in(self, weight: Tensor) -> int:
        """The number of weights of one neuron."""
        return weight.numel() // max(1, self.neurons(weight))

    def existing(self, weight: Tensor) -> Tensor:
        """Which connections exist where no mask says so: those whose weights are not 0."""
        return weight != 0


class SparseLayer(Protocol):
    """What a layer offers that holds nothing but its connections, such as `lpsphere.sparse.SparseLinear`.

    Attributes:
        in_features: Weights that a neuron can have.
        out_features: Neurons.
        row_pointers: Integers, shape (out_features + 1,): the connections of neuron i are row_pointers[i] to
            row_pointers[i + 1].
        columns: Integers, shape (connections,): the features they come from, ascending within a neuron.
    """

    in_features: int
    out_features: int
    row_pointers: Tensor
    columns: Tensor

    def set_structure(self, rows: Tensor, columns: Tensor, values: Tensor) -> Tensor:
        """Exchange the connections; returns the order in which they are kept."""

    def forget_index(self) -> None:
        """Free what is made from the structure, and can be made again."""

    def keep_factors(self, keep: bool) -> None:
        """Whether the backward passes from now on shall keep the factors of the dense gradient."""

    def gradient_factors(self) -> tuple[Tensor, Tensor] | None:
        """DY (out_features, samples) and X (in_features, samples), of which dY X' is the gradient; None: not kept."""


@dataclass(frozen=True)
class SegmentLayout:
    """Where the neurons lie in the weights of a layer that holds only its connections: one after the other.

    It asks the layer each time, and so follows every change of its structure. Tensors of the weight's shape
    (connections,) are meant where nothing else is said.

    Attributes:
        layer: The layer.
    """

    layer: SparseLayer

    def split(self, weight: Tensor) -> Tensor:
        """The tensor as it is."""
        return weight

    def fan_in_dims(self, weight: Tensor) -> Dims:
        """What makes up one neuron: segments of the connections; or of whole rows, (rows, fan_in), the second dim."""
        return (1,) if weight.ndim == 2 else Segments(self.layer.row_pointers)

    def to_rows(self, weight: Tensor) -> Tensor:
        """As rows, shape (neurons, connections of the largest): what the others lack at their ends is 0 or False."""
        inside = self._inside()
        rows = weight.new_zeros(inside.shape)
        rows[inside] = weight
        return rows

    def from_rows(self, rows: Tensor, like: Tensor) -> Tensor:
        """The inverse of `to_rows`."""
        return rows[self._inside()]

    def neurons(self, weight: Tensor) -> int:
        """The number of neurons."""
        return self.layer.out_features

    def fan_in(self, weight: Tensor) -> int:
        """The number of weights that one neuron can have."""
        return self.layer.in_features

    def existing(self, weight: Tensor) -> Tensor:
        """All of them, also where the weight is 0."""
        return torch.ones_like(weight, dtype=torch.bool)

    def _inside(self) -> Tensor:
        lengths = self.layer.row_pointers.diff()
        longest = int(lengths.max()) if len(lengths) else 0
        return torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)


Layout = NeuronLayout | SegmentLayout
