"""What `compact` and `export` do first: a copy for inference, its layers in one form; and how outputs are compared."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lpsphere.sparse.chain import SparseChain
from lpsphere.sparse.folding import replace_module
from lpsphere.sparse.graph import is_left
from lpsphere.sparse.linear import SparseLinear
from lpsphere.topology.masks import apply_masks

__all__ = [
    "bytes_of",
    "difference",
    "drop_masks",
    "make_dense",
    "mask_names",
    "prepared",
    "shared_parameters",
    "tensors_in",
]


def prepared(model: nn.Module) -> nn.Module:
    """A copy for inference, with its masks in force: evaluation mode, frozen.

    Raises:
        ValueError: If it cannot be copied.
    """
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper would be copied with its caches
    try:
        copied = copy.deepcopy(model)
    except RuntimeError as error:  # tensors that are part of a graph cannot be copied
        raise ValueError(f"the model cannot be copied: {error}. Delete the tensors it keeps from a backward") from error
    return apply_masks(copied.eval().requires_grad_(False))


def mask_names(module: nn.Module) -> list[str]:
    """The buffers of a module that are masks, for the weights beside them."""
    return [
        f"{name}_mask"
        for name, parameter in module.named_parameters(recurse=False)
        if (mask := module._buffers.get(f"{name}_mask")) is not None
        and mask.dtype == torch.bool
        and mask.shape == parameter.shape
    ]


def drop_masks(model: nn.Module) -> None:
    """Remove the masks of the layers of torch, which do not use them."""
    for module in model.modules():
        if type(module).__module__.startswith("torch.nn."):
            for name in mask_names(module):
                del module._buffers[name]


def shared_parameters(model: nn.Module) -> set[int]:
    """Identities of the parameters that several modules have."""
    counts = Counter(id(param) for module in model.modules() for param in module._parameters.values())
    return {identity for identity, count in counts.items() if count > 1} - {id(None)}


def make_dense(model: nn.Module, left: Collection[str] = (), largest: float = float("inf")) -> None:
    """Exchange sparse layers below ``model`` for dense ones: not those named, with hooks, or with more weights.

    A chain becomes a ``nn.Sequential`` where that can be done to all of its layers.
    """
    shared = shared_parameters(model)
    named = list(model.named_modules())
    stay = {
        id(module)
        for name, module in named
        if name in left
        or is_left(module, shared)
        or (isinstance(module, SparseLinear) and module.in_features * module.out_features > largest)
    }
    for _, module in named:
        if type(module) is SparseChain:
            parts = {id(part) for part in module.modules()}
            if parts & stay:
                stay |= parts
            else:
                replace_module(model, module, module.to_dense())
    for module in list(model.modules()):
        if type(module) is SparseLinear and id(module) not in stay:
            replace_module(model, module, module.to_dense())


def tensors_in(outputs: object) -> list[Tensor]:
    """The tensors in nested sequences and mappings, in order."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    return [found for part in outputs for found in tensors_in(part)] if isinstance(outputs, list | tuple) else []


def bytes_of(module: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def difference(expected: Any, found: Any) -> tuple[float, float]:
    """How far outputs are from those expected.

    Returns:
        The largest absolute difference, infinite where they do not correspond and NaN where only one is NaN; and the
        largest finite magnitude expected.
    """
    before, after = tensors_in(expected), tensors_in(found)
    if [(t.shape, t.dtype) for t in before] != [(t.shape, t.dtype) for t in after]:
        return float("inf"), 0.0
    largest, differences = 0.0, [torch.zeros((), dtype=torch.float64)]
    for one, other in zip(before, after, strict=True):
        a, b = one.detach().double(), other.detach().double()
        if a.numel():
            differences.append((a - b).abs().masked_fill((a == b) | (a.isnan() & b.isnan()), 0.0).max())
            largest = max(largest, float(a.abs().nan_to_num(0.0, 0.0).max()))
    return float(torch.stack(differences).max()), largest
