"""The step of the weights that are not on spheres: that of ``torch.optim.SGD``."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from lpsphere.distributed import is_shared

__all__ = ["plain_step"]

_SETTINGS = ("weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize")


def plain_step(group: dict[str, Any], states: MutableMapping[Tensor, Any], *, fused: bool = False) -> None:
    """One step of a parameter group, in place; its momentum is in the parameters' states.

    Args:
        group: The group.
        states: The states of all parameters.
        fused: Whether torch's fused kernel may be taken, on a CPU, where the group does not say what to take; its
            results differ by rounding.
    """
    params = [param for param in group["params"] if param.grad is not None]
    gradients = [param.grad for param in params]
    settings = {name: group[name] for name in _SETTINGS}
    buffers: list[Tensor | None] = [states[param].get("momentum_buffer") for param in params]
    started = group["momentum"] == 0 or all(buffer is not None for buffer in buffers)
    if fused and started and group["foreach"] is None and _can_fuse(params, gradients):
        # what sgd(fused=True) comes to, which takes longer to sort the tensors than this does to step them
        torch._fused_sgd_(params, gradients, buffers if group["momentum"] else [], is_first_step=False, **settings)  # type: ignore[arg-type]
        return
    sgd(
        params,
        gradients,
        buffers,
        has_sparse_grad=any(gradient.is_sparse for gradient in gradients),
        foreach=group["foreach"],
        **settings,
    )
    if group["momentum"] != 0:
        for param, buffer in zip(params, buffers, strict=True):
            states[param]["momentum_buffer"] = buffer


def _can_fuse(params: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> bool:
    kinds: set[torch.dtype] = set()
    for param, gradient in zip(params, gradients, strict=True):
        if gradient is None or not param.is_cpu or gradient.is_sparse or is_shared(param):
            return False
        kinds.update((param.dtype, gradient.dtype))
    return kinds in ({torch.float32}, {torch.float64})
