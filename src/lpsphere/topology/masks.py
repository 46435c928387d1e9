"""Masks: where they live (bool buffers beside the weight), initial ones, and exact selection by score."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lpsphere.distributed import as_shared, local
from lpsphere.memory import scratch
from lpsphere.neurons import NeuronWeight

__all__ = [
    "apply_masks",
    "buffer_name",
    "drop_mask",
    "existing_mask",
    "get_mask",
    "lowest",
    "random_units",
    "set_mask",
    "skip",
    "top_of_group",
    "zero_outside",
]

_BLOCK = 2**20


_BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}
"""Integers as long as the numbers."""


def buffer_name(neuron: NeuronWeight) -> str:
    """The name of the mask's buffer on the module that owns the weight, such as ``weight_mask``."""
    return f"{neuron.attribute}_mask"


def get_mask(neuron: NeuronWeight) -> Tensor | None:
    """The mask of a weight, bool in its shape; None if it has none."""
    mask = neuron.module._buffers.get(buffer_name(neuron))
    return None if mask is None else local(mask)


def set_mask(neuron: NeuronWeight, mask: Tensor) -> None:
    """Write the mask into its buffer, made if need be: saved with the model, and sharded as the parameter is."""
    buffer = get_mask(neuron)
    if buffer is None:
        neuron.module.register_buffer(buffer_name(neuron), as_shared(mask.clone(), neuron.parameter))
    else:
        buffer.copy_(mask)


def drop_mask(neuron: NeuronWeight) -> None:
    """Remove the mask of a weight, which stays as it is."""
    neuron.module._buffers.pop(buffer_name(neuron), None)


@torch.no_grad()
def apply_masks(model: nn.Module) -> nn.Module:
    """Set every weight whose mask says that it does not exist to 0, such as those of an averaged model.

    Args:
        model: A model with masks; one without is left as it is.

    Returns:
        The model.
    """
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            mask = module._buffers.get(f"{name}_mask")
            if mask is not None:
                zero_outside(local(weight), local(mask))
    return model


@torch.no_grad()
def zero_outside(x: Tensor, mask: Tensor) -> None:
    """Set the entries of a tensor whose mask is False to 0, in place, also those that are not finite.

    Args:
        x: Any shape.
        mask: bool, in the same shape.
    """
    if x.device.type == "cpu" and x.dtype in _BITS:  # there masked_fill_ takes nine times as long
        x.view(_BITS[x.dtype]).bitwise_and_(mask.to(_BITS[x.dtype]).neg_())
    else:
        x.masked_fill_(~mask, 0)


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
    threshold = _kth_smallest(scores, count)
    chosen = ~scores.isnan() if threshold.isnan() else scores < threshold
    ties = (scores.isnan() if threshold.isnan() else scores == threshold).nonzero().flatten()
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen


def _kth_smallest(scores: Tensor, k: int) -> Tensor:
    if scores.is_cpu and scores.dtype in (torch.float32, torch.float64):
        copy = scratch(len(scores), scores.dtype).copy_(scores).numpy()
        copy.partition(k - 1)  # a fraction of the memory of topk's pairs, and of its time
        return torch.as_tensor(copy[k - 1])
    return scores.topk(k, largest=False, sorted=False).values.amax()  # kthvalue, also where deterministic


def top_of_group(scores: Tensor, among: Tensor, count: int | Tensor) -> Tensor:
    """The ``count`` largest scores of each group, ties to the lower index.

    Args:
        scores: Shape (groups, units).
        among: bool, in the same shape: only these are chosen.
        count: How many of each group, or shape (groups,); fewer where ``among`` has fewer.

    Returns:
        bool, in the same shape.
    """
    if isinstance(count, int) and count == 0:
        return torch.zeros_like(among)
    scores = scores.masked_fill(~among, -torch.inf)
    if isinstance(count, int) and count == 1:  # by far the most frequent: no need to sort
        return torch.zeros_like(among).scatter_(1, scores.argmax(1, keepdim=True), True) & among
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(scores.shape[1], device=scores.device)
    first = ranks < torch.as_tensor(count, device=scores.device).reshape(-1, 1)
    return torch.zeros_like(among).scatter_(1, order, first.expand(order.shape)) & among


def random_units(shape: tuple[int, int], count: int, fewest: int, generator: torch.Generator) -> Tensor:
    """Uniformly random units: exactly ``count``, and at least ``fewest`` in every group.

    Args:
        shape: (groups, units of a group).
        count: How many in all, at least groups times ``fewest``.
        fewest: The fewest of a group.
        generator: Where the randomness comes from.

    Returns:
        bool, in that shape, on the CPU.
    """
    scores = torch.rand(shape, generator=generator)
    if fewest > 0:
        first = scores.argsort(dim=1, stable=True)[:, :fewest]
        scores.scatter_(1, first, scores.gather(1, first) - 1)
    return lowest(scores.flatten(), count).view(shape)


def skip(count: int, generator: torch.Generator) -> None:
    """Pass over random numbers, as if they had been drawn."""
    for first in range(0, count, _BLOCK):
        torch.rand(min(_BLOCK, count - first), generator=generator)


def existing_mask(neuron: NeuronWeight) -> Tensor:
    """The mask that the layer has; if there is none, the weights that are not zero."""
    mask = get_mask(neuron)
    return neuron.weight.detach() != 0 if mask is None else mask
