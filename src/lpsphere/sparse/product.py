"""The product of a sparse weight matrix and a batch, differentiable in torch; results are feature-major."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lpsphere.kernels import ConnectionIndex, multiply, multiply_transposed, sample

__all__ = ["sparse_product"]


def sparse_product(index: ConnectionIndex, x: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """X W' + bias, where W has only the connections of the index. Differentiable once, in everything but the index.

    Args:
        index: The connections of W.
        x: Shape (batch, in_features), float32 or float64, on the CPU; copied if it is not feature-major.
        values: Weights of the connections, shape (connections,), of the type of x.
        bias: Shape (out_features,), of the type of x, or None.

    Returns:
        Shape (batch, out_features), feature-major: of strides (1, batch). No view of another tensor, so that it may be
        changed in place.

    Raises:
        TypeError, ValueError: As `lpsphere.kernels.multiply`.
    """
    product: Tensor = _SparseProduct.apply(x, values, bias, index)  # type: ignore[no-untyped-call]
    return product


def _array(tensor: Tensor) -> Any:
    """The contiguous tensor as an array that shares its memory."""
    return tensor.detach().numpy()


def _feature_major(like: Tensor, features: int) -> Tensor:
    """Room for a batch, shape (batch, features)."""
    return like.new_empty_strided((like.shape[0], features), (1, max(1, like.shape[0])))


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, index: ConnectionIndex) -> Tensor:
        ctx.index = index
        by_feature = x.t().contiguous()
        ctx.save_for_backward(
            by_feature if ctx.needs_input_grad[1] else None, values if ctx.needs_input_grad[0] else None
        )
        y = _feature_major(x, index.out_features)
        multiply(index, _array(values), _array(by_feature), _array(y.t()), None if bias is None else _array(bias))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, values = ctx.saved_tensors
        by_feature = dy.t().contiguous()  # once, for both products; it arrives so from layers that keep the layout
        dx = dv = None
        if values is not None:
            dx = _feature_major(dy, ctx.index.in_features)
            multiply_transposed(ctx.index, _array(values), _array(by_feature), _array(dx.t()))
        if x is not None:
            dv = dy.new_empty((ctx.index.connections,))
            sample(ctx.index, _array(by_feature), _array(x), _array(dv))
        return dx, dv, by_feature.sum(1) if ctx.needs_input_grad[2] else None, None
