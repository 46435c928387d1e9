"""Masks: where they live (bool buffers beside the weight), random ones, and exact selection by score."""

from __future__ import annotations

import torch
from torch import Tensor

from lpsphere.neurons import NeuronWeight

__all__ = ["buffer_name", "get_mask", "lowest", "random_mask", "set_mask"]


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
    ranked = scores.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    threshold = ranked.kthvalue(count).values
    chosen = ranked < threshold
    ties = (ranked == threshold).nonzero().flatten()
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
