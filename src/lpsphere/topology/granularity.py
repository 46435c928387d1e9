"""What a topology method takes away at a time: single weights, N of every M, or blocks. Pure functions of shapes.

A *unit* is what exists or not as one: a weight, or a block of weights. The units of a layer form a grid of *groups*;
a group is a neuron, M consecutive weights of a neuron, or a row of blocks.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from torch import Tensor

from lpsphere.neurons import NeuronWeight

__all__ = ["Granularity"]


@dataclass(frozen=True)
class Granularity:
    """Single weights unless a pattern or a block is given.

    Attributes:
        pattern: (N, M): N of every M consecutive weights of a neuron exist at the target. None: no pattern.
        block: (neurons, inputs) of one unit.
    """

    pattern: tuple[int, int] | None = None
    block: tuple[int, int] = (1, 1)

    @classmethod
    def parse(cls, text: object) -> Granularity:
        """From "weight", a pattern such as "2:4", or a block such as "4x1" (neurons x inputs).

        Raises:
            ValueError: If it is none of these.
        """
        if text == "weight":
            return cls()
        match = re.fullmatch(r"([1-9]\d*)([:x])([1-9]\d*)", text) if isinstance(text, str) else None
        if match is not None:
            first, second = int(match[1]), int(match[3])
            if match[2] == "x":
                return cls(block=(first, second))
            if first < second:
                return cls(pattern=(first, second))
        raise ValueError(
            f'granularity must be "weight", N of every M weights such as "2:4" (N < M), or blocks of neurons x inputs '
            f'such as "4x1"; got {text!r}'
        )

    @property
    def unit(self) -> int:
        """Weights of one unit."""
        return self.block[0] * self.block[1]

    def check(self, layers: list[NeuronWeight], sparsity: float, min_fan_in: int) -> None:
        """See that it fits the layers, the target and what every neuron keeps.

        Raises:
            ValueError: If not; the message says which layer to leave out, or which sparsity to ask for.
        """
        neurons, inputs = (1, self.pattern[1]) if self.pattern is not None else self.block
        for neuron in layers:
            groups = getattr(neuron.module, "groups", 1)  # of a convolution: their neurons have different inputs
            if neuron.neurons % neurons or neuron.fan_in % inputs or neuron.neurons // groups % neurons:
                layer, parts = neuron.name.rpartition(".")[0], f" in {groups} groups" if groups > 1 else ""
                raise ValueError(
                    f"{self} does not divide {neuron.name}, which has {neuron.neurons} neurons of {neuron.fan_in} "
                    f"weights{parts}: leave it dense with Rule({layer!r}, sparse=False), or choose another granularity"
                )
        if self.pattern is None:
            return
        few, many = self.pattern
        if not math.isclose(sparsity, 1 - few / many):
            wanted = f"{(many - few) / many:.10g}"
            raise ValueError(f"{self} means sparsity {wanted} in every layer: pass sparsity={wanted}")
        for neuron in layers:
            left = neuron.fan_in // many * few
            if left < min(min_fan_in, neuron.fan_in):
                raise ValueError(
                    f"{self} leaves {left} connections to each neuron of {neuron.name}, fewer than "
                    f"min_fan_in={min_fan_in}: pass min_fan_in={left} or less"
                )

    def grid(self, neuron: NeuronWeight, values: Tensor) -> Tensor:
        """One value for each unit, shape (groups, units of a group).

        Args:
            neuron: The layer.
            values: Scores or a mask, in the shape of its weight; the score of a block is the mean of its weights'.
        """
        rows = neuron.layout.to_rows(values)
        if self.pattern is not None:
            return rows.reshape(-1, self.pattern[1])
        if self.unit == 1:
            return rows
        blocks = rows.reshape(-1, self.block[0], rows.shape[1] // self.block[1], self.block[1])
        return blocks.any(3).any(1) if values.dtype.is_floating_point is False else blocks.mean((1, 3))

    def spread(self, neuron: NeuronWeight, units: Tensor) -> Tensor:
        """The inverse of `grid` for a mask of the units: a mask in the shape of the weight."""
        rows = units
        if self.unit > 1:
            rows = units.repeat_interleave(self.block[0], 0).repeat_interleave(self.block[1], 1)
        return neuron.layout.from_rows(rows.reshape(-1, neuron.fan_in), neuron.weight)

    def shape(self, neuron: NeuronWeight) -> tuple[int, int]:
        """The shape of the grid: (groups, units of a group)."""
        if self.pattern is not None:
            return neuron.neurons * neuron.fan_in // self.pattern[1], self.pattern[1]
        return neuron.neurons // self.block[0], neuron.fan_in // self.block[1]

    def units(self, neuron: NeuronWeight) -> int:
        """The number of units of a layer."""
        return neuron.neurons * neuron.fan_in // self.unit

    def fewest_in_group(self, neuron: NeuronWeight, min_fan_in: int) -> int:
        """Units that every group keeps so that each neuron has ``min_fan_in`` connections, or N of the pattern."""
        if self.pattern is not None:
            return self.pattern[0]
        return min(math.ceil(min_fan_in / self.block[1]), self.shape(neuron)[1])

    def fewest(self, neuron: NeuronWeight, min_fan_in: int) -> int:
        """The same over the whole layer."""
        return self.shape(neuron)[0] * self.fewest_in_group(neuron, min_fan_in)

    def __str__(self) -> str:
        """As `parse` takes it."""
        if self.pattern is not None:
            return f"{self.pattern[0]}:{self.pattern[1]}"
        return "weight" if self.unit == 1 else f"{self.block[0]}x{self.block[1]}"
