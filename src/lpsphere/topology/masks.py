"""Masks: where they live (bool buffers beside the weight), initial ones, and exact selection by score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lpsphere.neurons import NeuronWeight
from lpsphere.topology.distributions import layer_connections

__all__ = [
    "buffer_name",
    "existing_masks",
    "fewest_connections",
    "get_mask",
    "lowest",
    "protected",
    "random_mask",
    "random_masks",
    "set_mask",
]


def buffer_name(neuron: NeuronWeight) -> str:
    """The name of the mask's buffer on the module that owns the weight, such as ``weight_mask``."""
    return f"{neuron.attribute}_mask"


def get_mask(neuron: NeuronWeight) -> Tensor | None:
    """The mask of a weight, bool in its shape; None if it has none."""
    return neuron.module._buffers.get(buffer_name(neuron))


def set_mask(neuron: NeuronWeight, mask: Tensor) -> None:
    """Write the mask into its buffer, which is made if need be and saved with the model."""
    buffer = get_mask(neuron)
    if buffer is None:
        neuron.module.register_buffer(buffer_name(neuron), mask.clone())
    else:
        buffer.copy_(mask)


def lowest(scores: Tensor, count: int) -> Tensor:
    """The ``count`` smallest of the scores, exactly; ties go to the lower index.

    Args:
        scores: Shape (n,); NaN ranks highest.
        count: How many, 0 to n.

    Returns:
        bool, shape (n,), with ``count`` True entries.
    """
    chosen = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    if count == 0:
        return chosen
    threshold = scores.topk(count, largest=False, sorted=False).values.amax()  # kthvalue, also where deterministic
    chosen = ~scores.isnan() if threshold.isnan() else scores < threshold
    ties = (scores.isnan() if threshold.isnan() else scores == threshold).nonzero().flatten()
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen


def random_mask(neurons: int, fan_in: int, count: int, min_fan_in: int, generator: torch.Generator) -> Tensor:
    """A uniformly random mask of exactly ``count`` connections with at least ``min_fan_in`` for every neuron.

    Returns:
        bool, shape (neurons, fan_in), on the CPU.
    """
    scores = torch.rand(neurons, fan_in, generator=generator)
    if min_fan_in > 0:
        first = scores.argsort(dim=1, stable=True)[:, :min_fan_in]
        scores.scatter_(1, first, scores.gather(1, first) - 1)
    return lowest(scores.flatten(), count).view(neurons, fan_in)


def fewest_connections(neuron: NeuronWeight, min_fan_in: int) -> int:
    """The connections of a layer when every neuron has ``min_fan_in``, or its whole fan-in where that is less."""
    return neuron.neurons * min(min_fan_in, neuron.fan_in)


def random_masks(
    layers: Sequence[NeuronWeight], total: int, min_fan_in: int, distribution: str, generator: torch.Generator
) -> list[Tensor]:
    """Random masks of exactly ``total`` connections together, in the shapes of the weights, on the CPU.

    Raises:
        ValueError: As `layer_connections`.
    """
    counts = layer_connections(
        [neuron.weight.shape for neuron in layers],
        total,
        [fewest_connections(neuron, min_fan_in) for neuron in layers],
        distribution,
    )
    return [
        neuron.layout.from_rows(random_mask(neuron.neurons, neuron.fan_in, count, min_fan_in, generator), neuron.weight)
        for neuron, count in zip(layers, counts, strict=True)
    ]


def existing_masks(layers: Sequence[NeuronWeight]) -> list[Tensor]:
    """The masks that the layers have; where there is none, the weights that are not zero."""
    masks = [(neuron, get_mask(neuron)) for neuron in layers]
    return [neuron.weight.detach() != 0 if mask is None else mask for neuron, mask in masks]


def protected(neuron: NeuronWeight, mask: Tensor, scores: Tensor, min_fan_in: int) -> Tensor:
    """The ``min_fan_in`` connections of each neuron with the largest scores, ties to the lower index.

    Args:
        neuron: The layer.
        mask: Its mask.
        scores: Scores of at least 0, in the shape of the weight.
        min_fan_in: How many connections every neuron keeps.

    Returns:
        bool, in the shape of the weight; of a neuron with fewer connections also inactive entries are True.
    """
    if min_fan_in == 0:
        return torch.zeros_like(mask)
    rows = neuron.layout.to_rows(scores.masked_fill(~mask, -1))
    largest = rows.sort(dim=1, descending=True, stable=True).indices[:, :min_fan_in]
    kept = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, largest, True)
    return neuron.layout.from_rows(kept, mask)
