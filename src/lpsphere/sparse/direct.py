"""The way through sparse layers in one compiled call on the tensors' memory, and back through them in another."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.nn.modules import module as torch_module

from lpsphere.kernels import ChainLayer, LayerChain

__all__ = ["DirectRun", "is_plain"]

_version = attrgetter("_version")
_HOOKS = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
_GLOBAL_HOOKS = [getattr(torch_module, f"_global_{name}") for name in _HOOKS]


def is_plain(input: Tensor) -> bool:
    """Whether the input is a plain tensor on the CPU, and nothing but values and gradients will be asked for."""
    return not (
        type(input) is not Tensor
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
            self._hooks += [getattr(layer, f"_{name}") for name in _HOOKS]
            values, bias = layer.weight.detach().numpy(), layer.bias
            chain.append(ChainLayer(layer._index(), values, None if bias is None else bias.detach().numpy(), follows))
        self._floats: list[Tensor] = [p for layer in layers for p in layer._parameters.values() if p is not None]
        self._integers: list[Tensor] = [tensor for layer in layers for tensor in (layer.row_pointers, layer.columns)]
        self._places = [*map(Tensor.data_ptr, self._floats)]
        self._versions = [*map(_version, self._integers)]
        self._chain = LayerChain(chain)

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

    def wants_gradients(self, x: Tensor) -> bool:
        """Whether the input, or one of the weights or biases, needs its gradient."""
        return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self._floats))

    def is_watched(self) -> bool:
        """Whether someone asks to be told of the calls of single layers."""
        return any(self._hooks) or any(_GLOBAL_HOOKS)

    def __call__(self, x: Tensor) -> Tensor | None:
        """What the layers make of a plain tensor; None if it does not fit them, or is better taken layer by layer."""
        flat = self._flat(x)
        if flat is None:
            return None
        batch, neurons, turned = flat.shape[0], self.out_features, self._feature_major
        y = flat.new_empty_strided((batch, neurons), (1, batch) if turned else (neurons, 1))
        if not self._chain.run(flat.data_ptr(), _order(flat), y.data_ptr(), 1 if turned or batch == 1 else 0, batch):
            return None
        return self._shaped(y, x)

    def differentiable(self, x: Tensor) -> Tensor | None:
        """The same, to be differentiated once; None, too, if some of the weights or biases are frozen."""
        flat = self._flat(x)
        if flat is None or not all(p.requires_grad for p in self._floats):
            return None
        if not self._chain.worth_keeping(flat.shape[0]):
            return None
        y: Tensor = _ChainProduct.apply(self._chain, flat, self.out_features, *self._floats)  # type: ignore[no-untyped-call]
        return self._shaped(y, x)

    def _flat(self, x: Tensor) -> Tensor | None:
        """Samples by features, contiguous or feature-major; None if it does not fit the layers."""
        shape, features = x.shape, self.in_features
        if x.dtype is not self.dtype or not shape or shape[-1] != features:
            return None
        flat = x if len(shape) == 2 else x.reshape(-1, features)
        return flat if flat.is_contiguous() or flat.t().is_contiguous() else flat.contiguous()

    def _shaped(self, y: Tensor, x: Tensor) -> Tensor:
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], self.out_features)


def _order(flat: Tensor) -> int:
    """1 if the tensor lies feature by feature, also where both orders are the same; 0 if sample by sample."""
    return int(not flat.is_contiguous() or flat.shape[0] == 1)


class _ChainProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chain: LayerChain, x: Tensor, neurons: int, *parameters: Tensor) -> Tensor:
        batch = x.shape[0]
        y, kept = x.new_empty((batch, neurons)), x.new_empty(batch * chain.kept_features)
        chain.run_keeping(x.data_ptr(), _order(x), y.data_ptr(), batch, kept.data_ptr())
        ctx.chain = chain
        ctx.save_for_backward(x, kept, *parameters)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, kept, *parameters = ctx.saved_tensors
        dy = dy if dy.is_contiguous() or dy.t().is_contiguous() else dy.contiguous()
        dx = torch.empty_like(x) if ctx.needs_input_grad[1] else None
        gradients = [torch.empty_like(parameter) for parameter in parameters]
        ctx.chain.run_back(
            [*map(Tensor.data_ptr, parameters)],
            [*map(Tensor.data_ptr, gradients)],
            (x.data_ptr(), _order(x)),
            (dy.data_ptr(), _order(dy)),
            0 if dx is None else dx.data_ptr(),
            len(x),
            kept.data_ptr(),
        )
        return None, dx, None, *gradients
