"""The step of the weights that are not on spheres: that of ``torch.optim.SGD``."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from lpsphere.distributed import is_shared

__all__ = ["plain_step"]


def plain_step(group: dict[str, Any], states: MutableMapping[Tensor, Any], *, fused: bool = False) -> None:
    """One step of a parameter group, in place; its momentum is in the parameters' states.

    Args:
        group: The group.
        states: The states of all parameters.
        fused: Whether torch's fused kernel may be taken, on a CPU, where the group does not say what to take; its
            results differ by rounding.
    """
    params = [param for param in group["params"] if param.grad is not None]
    fused = fused and group["foreach"] is None and all(map(_can_fuse, params))
    buffers: list[Tensor | None] = [states[param].get("momentum_buffer") for param in params]
    sgd(
        params,
        [param.grad for param in params],
        buffers,
        has_sparse_grad=any(param.grad.is_sparse for param in params),
        foreach=False if fused else group["foreach"],
        fused=fused,
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
    )
    if group["momentum"] != 0:
        for param, buffer in zip(params, buffers, strict=True):
            states[param]["momentum_buffer"] = buffer


def _can_fuse(param: Tensor) -> bool:
    if not param.is_cpu or is_shared(param) or param.dtype not in (torch.float32, torch.float64):
        return False
    gradient = param.grad
    return gradient is not None and not gradient.is_sparse and gradient.dtype == param.dtype
