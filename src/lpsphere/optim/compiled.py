"""The dual step of float32 weights on a CPU by compiled code: tensors in, written in place. Knows no groups.

Worth it but for small networks: loading Numba takes a process up to half a second, and a step saves about a
millisecond.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lpsphere.neurons import Layout, SegmentLayout

__all__ = ["WORTH_COMPILING", "can_compile", "compiled_step"]

WORTH_COMPILING = 1 << 14
"""Weights on spheres, in all, from which an optimizer takes compiled steps."""


def can_compile(param: Tensor, layout: Layout) -> bool:
    """Whether this weight is such that `compiled_step` can take it."""
    if param.dtype != torch.float32 or param.device.type != "cpu":
        return False
    if isinstance(layout, SegmentLayout):
        return param.is_contiguous()
    return (layout.neuron_dim, layout.groups) == (0, 1) and _in_rows(param)


def compiled_step(
    param: Tensor,
    layout: Layout,
    state: dict[str, Any],
    gradient: Tensor,
    mask: Tensor | None,
    radius: float | Tensor,
    *,
    p: float,
    eta: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """One step of a weight, its dual state and its momentum.

    Args:
        param: The weight, as `can_compile` asks for.
        layout: Where its neurons lie.
        state: Its state: "dual", and "momentum_buffer", which is made here at the first step.
        gradient: Its gradient; left as it is.
        mask: bool, True where the connection exists; None: everywhere.
        radius: Radius of the spheres, or of each neuron's.
        p: Exponent of the spheres.
        eta: Learning rate.
        momentum: Momentum factor.
        dampening: Dampening of the momentum.
        nesterov: Nesterov momentum.
        maximize: Whether to step against the gradient's sign.
    """
    from lpsphere.kernels.sphere_step import dual_step

    buffer, gain = None, 1 - dampening
    if momentum != 0:
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param)
            gain = 1.0
        buffer = _flat(_alike(state, "momentum_buffer", param))
    radii = np.array([radius], np.float32) if isinstance(radius, float) else radius.reshape(-1).numpy()
    dual_step(
        _pointers(param, layout),
        _flat(param.detach()),
        _flat(_alike(state, "dual", param)),
        _flat(_in_order(gradient, param)),
        buffer,
        None if mask is None else _flat(_in_order(mask, param)),
        radii,
        (p, eta, momentum, gain),
        (nesterov, maximize),
    )
    torch.autograd.graph.increment_version(param)


def _in_rows(x: Tensor) -> bool:
    """Whether every row along dimension 0 lies in one piece."""
    if x.is_contiguous():
        return True
    orders = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.ndim in orders and x.is_contiguous(memory_format=orders[x.ndim])


def _flat(x: Tensor) -> np.ndarray[Any, Any]:
    """All entries in the order of memory, without a copy."""
    return x.as_strided((x.numel(),), (1,)).numpy()


def _pointers(param: Tensor, layout: Layout) -> np.ndarray[Any, Any]:
    """Where each row begins, and where the last ends."""
    if isinstance(layout, SegmentLayout):
        return layout.layer.row_pointers.numpy().astype(np.int64)
    return np.arange(param.shape[0] + 1) * (param.numel() // param.shape[0])


def _in_order(x: Tensor, like: Tensor) -> Tensor:
    """``x`` in the order of memory of another tensor of its shape."""
    if x.stride() == like.stride():
        return x
    return torch.empty_like(like, dtype=x.dtype).copy_(x)


def _alike(state: dict[str, Any], key: str, like: Tensor) -> Tensor:
    """A tensor of the state, from now on in the order of memory of the weight."""
    state[key] = _in_order(state[key], like)
    found: Tensor = state[key]
    return found
