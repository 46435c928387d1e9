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
    kept = buffers if group["momentum"] != 0 else []
    if fused and group["foreach"] is None and _can_fuse([*params, *gradients, *kept]):
        # what sgd(fused=True) comes to, which takes longer to sort the tensors than this does to step them
        torch._fused_sgd_(params, gradients, kept, is_first_step=False, **settings)  # type: ignore[arg-type]
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


def _can_fuse(tensors: Sequence[Tensor | None]) -> bool:
    """Whether torch's fused kernel can take these: it walks through their memory as if all were of one type and order.

    None are momenta that have not begun.
    """
    kinds = set()
    for tensor in tensors:
        if tensor is None or not tensor.is_cpu or tensor.is_sparse or is_shared(tensor) or not tensor.is_contiguous():
            return False
        kinds.add(tensor.dtype)
    return kinds in ({torch.float32}, {torch.float64})
