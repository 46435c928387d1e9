"""The step of the weights that are not on spheres: that of ``torch.optim.SGD``."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from torch import Tensor
from torch.optim.sgd import sgd

__all__ = ["plain_step"]


def plain_step(group: dict[str, Any], states: MutableMapping[Tensor, Any]) -> None:
    """One step of a parameter group, in place; its momentum is in the parameters' states."""
    params = [param for param in group["params"] if param.grad is not None]
    buffers: list[Tensor | None] = [states[param].get("momentum_buffer") for param in params]
    sgd(
        params,
        [param.grad for param in params],
        buffers,
        has_sparse_grad=any(param.grad.is_sparse for param in params),
        foreach=group["foreach"],
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
