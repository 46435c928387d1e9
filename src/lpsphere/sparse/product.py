"""The product of a sparse weight matrix and a batch, differentiable in torch. Feature-major throughout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lpsphere.kernels import ConnectionIndex, multiply, multiply_transposed, sample

__all__ = ["sparse_product"]


def sparse_product(index: ConnectionIndex, x: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """W X + bias, where W has only the connections of the index. Differentiable once, in everything but the index.

    Args:
        index: The connections of W.
        x: Contiguous, shape (in_features, batch), float32 or float64, on the CPU.
        values: Weights of the connections, shape (connections,), of the type of x.
        bias: Shape (out_features,), of the type of x, or None.

    Returns:
        Contiguous, shape (out_features, batch).

    Raises:
        TypeError, ValueError: As `lpsphere.kernels.multiply`.
    """
    product: Tensor = _SparseProduct.apply(x, values, bias, index)  # type: ignore[no-untyped-call]
    return product


def _array(tensor: Tensor) -> Any:
    """The contiguous tensor as an array that shares its memory."""
    return tensor.detach().numpy()


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, index: ConnectionIndex) -> Tensor:
        ctx.index = index
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, values if ctx.needs_input_grad[0] else None)
        y = x.new_empty((index.out_features, x.shape[1]))
        multiply(index, _array(values), _array(x), _array(y), None if bias is None else _array(bias))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, values = ctx.saved_tensors
        dy = dy.contiguous()  # once, for both products; it arrives so from layers that keep the layout
        dx = dv = None
        if values is not None:
            dx = dy.new_empty((ctx.index.in_features, dy.shape[1]))
            multiply_transposed(ctx.index, _array(values), _array(dy), _array(dx))
        if x is not None:
            dv = dy.new_empty((ctx.index.connections,))
            sample(ctx.index, _array(dy), _array(x), _array(dv))
        return dx, dv, dy.sum(1) if ctx.needs_input_grad[2] else None, None
