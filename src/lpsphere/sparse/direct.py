"""The way through sparse layers when no gradient is wanted: one compiled call on the tensors' memory."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module

from lpsphere.kernels import ChainLayer, LayerChain

__all__ = ["DirectRun", "needs_graph"]

_version = attrgetter("_version")
_GLOBAL_HOOKS = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)


def needs_graph(input: Tensor) -> bool:
    """Whether something else than the values of the output may be asked for, or the input is no plain tensor."""
    return (
        type(input) is not Tensor
        or (input.requires_grad and torch.is_grad_enabled())
        or torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or forward_ad._current_level >= 0
        or not input.is_cpu
        or input.is_neg()
    )


class DirectRun:
    """Sparse layers of one type, prepared to be run one after another; holds as long as `fits` says so.

    Weights and biases are read where they are, so that changes in place count; the structure was checked once.

    Args:
        layers: `SparseLinear` layers, for which `possible` holds.
        relu: Whether a ReLU follows, for each.
        feature_major: Whether outputs are feature-major, rather than contiguous.
    """

    def __init__(self, layers: Sequence[Any], relu: Sequence[bool], *, feature_major: bool) -> None:
        self.dtype = layers[0].weight.dtype
        self.in_features, self.out_features = layers[0].in_features, layers[-1].out_features
        self._feature_major = feature_major
        self._tensors: list[tuple[dict[str, Any], str, Tensor | None]] = []
        self._hooks: list[Any] = []
        chain = []
        for layer, follows in zip(layers, relu, strict=True):
            self._tensors += [(layer._parameters, name, layer._parameters[name]) for name in ("weight", "bias")]
            self._tensors += [(layer._buffers, name, layer._buffers[name]) for name in ("row_pointers", "columns")]
            self._hooks += [layer._forward_hooks, layer._forward_pre_hooks]
            values, bias = layer.weight.detach().numpy(), layer.bias
            chain.append(ChainLayer(layer._index(), values, None if bias is None else bias.detach().numpy(), follows))
        self._floats: list[Tensor] = [p for layer in layers for p in layer._parameters.values() if p is not None]
        self._integers: list[Tensor] = [tensor for layer in layers for tensor in (layer.row_pointers, layer.columns)]
        self._places = [*map(Tensor.data_ptr, self._floats)]
        self._versions = [*map(_version, self._integers)]
        self._run = LayerChain(chain).run

    @staticmethod
    def possible(layers: Sequence[Any]) -> bool:
        """Whether layers can be run so: on the CPU, all in float32 or all in float64, their changes counted."""
        kinds: set[torch.dtype] = set()
        for layer in layers:
            if set(layer._parameters) != {"weight", "bias"}:  # something computes them
                return False
            floats = [parameter for parameter in layer._parameters.values() if parameter is not None]
            tensors = [*floats, layer.row_pointers, layer.columns]
            if any(not t.is_cpu or t.is_inference() or not t.is_contiguous() or t.is_neg() for t in tensors):
                return False
            if layer.row_pointers.dtype != torch.int32:
                return False
            kinds.update(parameter.dtype for parameter in floats)
        return kinds in ({torch.float32}, {torch.float64})

    def fits(self) -> bool:
        """Whether the layers' tensors are still those, at their places, with the structure that was checked."""
        for held, name, tensor in self._tensors:
            if held.get(name) is not tensor:
                return False
        if [*map(Tensor.data_ptr, self._floats)] != self._places:
            return False
        return [*map(_version, self._integers)] == self._versions

    def wants_gradients(self) -> bool:
        """Whether one of the weights or biases needs its gradient."""
        return torch.is_grad_enabled() and any(p.requires_grad for p in self._floats)

    def is_watched(self) -> bool:
        """Whether someone asks to be told of the calls of single layers."""
        return any(self._hooks) or any(_GLOBAL_HOOKS)

    def __call__(self, x: Tensor) -> Tensor | None:
        """What the layers make of a plain tensor; None if it does not fit them, or is better taken layer by layer."""
        shape, features, dtype = x.shape, self.in_features, self.dtype
        if x.dtype is not dtype or not shape or shape[-1] != features:
            return None
        flat = x if len(shape) == 2 else x.reshape(-1, features)
        batch = flat.shape[0]
        order = 0
        if not flat.is_contiguous():
            order = int(flat.t().is_contiguous())
            flat = flat if order else flat.contiguous()
        neurons, turned = self.out_features, self._feature_major
        strides = (1, batch) if turned else (neurons, 1)
        y = flat.new_empty_strided((batch, neurons), strides)
        one = batch == 1  # which makes both orders the same
        if not self._run(flat.data_ptr(), 1 if one else order, y.data_ptr(), 1 if turned or one else 0, batch):
            return None
        return y if len(shape) == 2 else y.reshape(*shape[:-1], neurons)
