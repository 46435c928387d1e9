"""The dual step of float32 weights on a CPU by compiled code: tensors in, written in place. Knows no groups.

Worth it but for small networks: loading Numba takes a process up to half a second, and a step saves about a
millisecond.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lpsphere.neurons import Layout, SegmentLayout

__all__ = ["WORTH_COMPILING", "Stepped", "can_compile", "compiled_steps"]

WORTH_COMPILING = 1 << 14
"""Weights on spheres, in all, from which an optimizer takes compiled steps."""


def can_compile(param: Tensor, layout: Layout) -> bool:
    """Whether this weight is such that `compiled_steps` can take it."""
    if param.dtype != torch.float32 or not param.is_cpu:
        return False
    if isinstance(layout, SegmentLayout):
        return param.is_contiguous()
    return (layout.neuron_dim, layout.groups) == (0, 1) and _in_rows(param)


class Stepped(NamedTuple):
    """A weight, as `can_compile` asks for, and what its step takes.

    Attributes:
        param: The weight.
        layout: Where its neurons lie.
        state: Its state: "dual", and "momentum_buffer", which is made at the first step.
        gradient: Its gradient; left as it is.
        mask: bool, True where the connection exists; None: everywhere.
        radius: Radius of the spheres, or of each neuron's.
    """

    param: Tensor
    layout: Layout
    state: dict[str, Any]
    gradient: Tensor
    mask: Tensor | None
    radius: float | Tensor


def compiled_steps(
    weights: Sequence[Stepped],
    *,
    p: float,
    eta: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """One step of each weight, its dual state and its momentum.

    Args:
        weights: The weights.
        p: Exponent of the spheres.
        eta: Learning rate.
        momentum: Momentum factor.
        dampening: Dampening of the momentum.
        nesterov: Nesterov momentum.
        maximize: Whether to step against the gradient's sign.
    """
    table: list[int] = []
    constants, alive = [], []
    for param, layout, state, gradient, mask, radius in weights:
        gain = 1 - dampening
        if momentum != 0 and "momentum_buffer" not in state:
            state["momentum_buffer"], gain = torch.zeros_like(param), 1.0
        pointers, rows = None, len(param)
        if isinstance(layout, SegmentLayout):
            pointers = layout.layer.row_pointers
            pointers, rows = pointers if pointers.dtype == torch.int32 else pointers.int(), len(pointers) - 1
        tensors = (
            pointers,
            param,
            _alike(state, "dual", param),
            _in_order(gradient, param),
            _alike(state, "momentum_buffer", param) if momentum != 0 else None,
            None if mask is None else _in_order(mask, param, torch.bool),
            None if isinstance(radius, float) else radius.float().contiguous(),
        )
        alive.append(tensors)  # some were made here, and are only read by their addresses
        table += (rows, param.numel(), *(0 if tensor is None else tensor.data_ptr() for tensor in tensors))
        constants.append((radius if isinstance(radius, float) else 0.0, gain))
    addresses = array("q", table)
    settings, flags = (p, eta, momentum), (nesterov, maximize)
    _kernel()(addresses.buffer_info()[0], len(alive), np.array(constants, np.float32), settings, flags)
    torch.autograd.graph.increment_version([stepped.param for stepped in weights])


@cache
def _kernel() -> Any:
    from lpsphere.kernels.sphere_step import dual_steps

    return dual_steps


def _in_rows(x: Tensor) -> bool:
    """Whether every row along dimension 0 lies in one piece."""
    if x.is_contiguous():
        return True
    orders = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.ndim in orders and x.is_contiguous(memory_format=orders[x.ndim])


def _in_order(x: Tensor, like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """``x`` in the order of memory of another tensor of its shape, and of the type that compiled code reads there."""
    if x.stride() == like.stride() and x.dtype == dtype:
        return x
    return torch.empty_like(like, dtype=dtype).copy_(x)


def _alike(state: dict[str, Any], key: str, like: Tensor) -> Tensor:
    """A tensor of the state, from now on in the order of memory of the weight."""
    state[key] = _in_order(state[key], like)
    found: Tensor = state[key]
    return found
