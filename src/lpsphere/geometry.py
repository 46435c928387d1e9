"""The unit Lp sphere: norms, radial projection and duality maps, on the rows of tensors.

Pure functions. A *row* is one neuron's weights: the last dimension, or the dimensions named by ``dim``. Every
power is taken of numbers divided by the row's largest magnitude, since q = p / (p - 1) is large for p near 1
(p = 1.07: q = 15.3) and a plain sum of q-th powers underflows. float16 and bfloat16 are computed in float32 and
returned in their own dtype. A zero row has norm 0 and stays zero; NaN and inf come out as NaN or inf. Rows of different
lengths are `Segments` of a tensor of one dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Dims",
    "Segments",
    "check_exponent",
    "conjugate",
    "dual",
    "dual_pair",
    "lp_norm",
    "primal",
    "project",
    "row_any",
    "row_largest",
    "row_sums",
    "signed_power",
    "spread",
]


@dataclass(frozen=True, eq=False)
class Segments:
    """Rows of different lengths, laid end to end in a tensor of one dimension: stands for ``dim`` in this module.

    Attributes:
        pointers: Where each row begins, and where the last ends; integers, shape (rows + 1,).
    """

    pointers: Tensor

    def reduce(self, x: Tensor, how: str) -> Tensor:
        """The "sum" or the "max" of each row, 0 where it is empty; shape (rows,).

        Args:
            x: float32 or float64, shape (entries,).
            how: "sum" or "max"; what a maximum is taken of is at least 0.
        """
        lengths = self.pointers.diff()
        return torch.segment_reduce(x.contiguous(), how, lengths=lengths, initial=0, unsafe=True)


Dims = int | tuple[int, ...] | Segments


def row_sums(x: Tensor, dim: Dims) -> Tensor:
    """The sum of each row, in the shape that `spread` takes."""
    return dim.reduce(x, "sum") if isinstance(dim, Segments) else x.sum(dim, keepdim=True)


def row_largest(magnitude: Tensor, dim: Dims) -> Tensor:
    """The largest of each row of magnitudes, in the shape that `spread` takes."""
    return dim.reduce(magnitude, "max") if isinstance(dim, Segments) else magnitude.amax(dim, keepdim=True)


def row_any(x: Tensor, dim: Dims) -> Tensor:
    """Whether any entry of each row of a bool tensor is True, in the shape that `spread` takes."""
    return dim.reduce(x.float(), "max") > 0 if isinstance(dim, Segments) else x.any(dim, keepdim=True)


def spread(per_row: Tensor, dim: Dims) -> Tensor:
    """One number a row in a shape that broadcasts against the rows: segments repeat it for each of their entries."""
    return per_row.repeat_interleave(dim.pointers.diff()) if isinstance(dim, Segments) else per_row


def check_exponent(p: object, *, name: str = "p") -> float:
    """Return the exponent of the sphere as a float.

    Args:
        p: The exponent, a finite number greater than 1.
        name: What to call it in the error.

    Raises:
        TypeError: If ``p`` is not a number.
        ValueError: If ``p`` is not finite or not greater than 1.
    """
    if isinstance(p, bool) or not isinstance(p, int | float):
        raise TypeError(f"{name} must be a number greater than 1, got {p!r}")
    if not (math.isfinite(p) and p > 1):
        raise ValueError(
            f"{name} must be finite and greater than 1, got {p}: 1.05 to 1.5 gives sparse neurons, 2 the sphere"
        )
    return float(p)


def conjugate(p: float) -> float:
    """The conjugate exponent q = p / (p - 1), so that 1/p + 1/q = 1 (method, section 1).

    Raises:
        TypeError, ValueError: As `check_exponent`.
    """
    p = check_exponent(p)
    return p / (p - 1)


def _computable(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise TypeError(f"expected a floating-point tensor, got {x.dtype}; convert it with .float()")
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _scale(magnitude: Tensor, dim: Dims) -> Tensor:
    """The largest magnitude of each row, 1 where that is zero or not finite."""
    largest = row_largest(magnitude.detach(), dim)
    return torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))


def _norm(x: Tensor, p: float, dim: Dims) -> Tensor:
    magnitude = x.abs()
    scale = _scale(magnitude, dim)
    power_sum = row_sums((magnitude / spread(scale, dim)).pow(p), dim)
    zero = power_sum == 0
    root = torch.where(zero, torch.ones_like(power_sum), power_sum).pow(1 / p)
    return torch.where(zero, torch.zeros_like(root), scale * root)


def lp_norm(x: Tensor, p: float, *, dim: Dims = -1, keepdim: bool = False) -> Tensor:
    """``(sum |x_i|^p)^(1/p)`` of each row (method, section 2, numerics).

    Args:
        x: Rows, shape (..., n), floating point.
        p: Exponent, greater than 1.
        dim: The dimension or dimensions that make up a row, or `Segments` of an ``x`` of one dimension.
        keepdim: Keep the reduced dimensions with size 1.

    Returns:
        The norms, shape (...), in the dtype of ``x``; of segments, shape (rows,). Differentiable; the gradient at a
        zero row is 0.

    Raises:
        TypeError: If ``x`` is not floating point, or ``p`` not a number.
        ValueError: If ``p`` is not greater than 1.

    Example:
        >>> lp_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 2.0)
        tensor([5., 0.])
    """
    norm = _norm(_computable(x), check_exponent(p), dim).to(x.dtype)
    return norm if keepdim or isinstance(dim, Segments) else norm.squeeze(dim)


def project(x: Tensor, p: float, radius: float | Tensor = 1.0, *, dim: Dims = -1) -> Tensor:
    """``radius x / ||x||_p``: each row moved along its ray to the sphere of that radius.

    Args:
        x: Rows, shape (..., n), floating point.
        p: Exponent, greater than 1.
        radius: A positive number, or a tensor that broadcasts against the rows, such as shape (..., 1).
        dim: The dimension or dimensions that make up a row, or `Segments` of an ``x`` of one dimension.

    Returns:
        The rows on their spheres, in the shape and dtype of ``x``; a zero row stays zero.

    Raises:
        TypeError: If ``x`` is not floating point, or ``p`` not a number.
        ValueError: If ``p`` is not greater than 1.

    Example:
        >>> project(torch.tensor([3.0, 4.0]), 2.0)
        tensor([0.6000, 0.8000])
    """
    rows = _computable(x)
    scaled = rows / spread(_scale(rows.abs(), dim), dim)
    norm = _norm(scaled, check_exponent(p), dim)
    return (radius * scaled / spread(torch.where(norm == 0, torch.ones_like(norm), norm), dim)).to(x.dtype)


def signed_power(x: Tensor, exponent: float) -> Tensor:
    """``sign(x) |x|^exponent``, element by element."""
    rows = _computable(x)
    return rows.abs().pow(exponent).copysign(rows).to(x.dtype)


def dual(w: Tensor, p: float) -> Tensor:
    """The duality map ``J_p(w) = sign(w) |w|^(p-1)``: from the unit Lp sphere onto the unit Lq sphere.

    Args:
        w: Weights, any shape, floating point. Divide by the radius first where it is not 1.
        p: Exponent, greater than 1.

    Returns:
        The dual weights v, in the shape and dtype of ``w`` (method, section 1).

    Raises:
        TypeError: If ``w`` is not floating point, or ``p`` not a number.
        ValueError: If ``p`` is not greater than 1.
    """
    return signed_power(w, check_exponent(p) - 1)


def primal(v: Tensor, p: float) -> Tensor:
    """The inverse of `dual`: ``J_q(v) = sign(v) |v|^(1/(p-1))``, from the unit Lq sphere onto the unit Lp sphere.

    Args:
        v: Dual weights, any shape, floating point.
        p: Exponent of the *weights'* sphere, greater than 1 (not its conjugate).

    Returns:
        The weights w, in the shape and dtype of ``v``. For p near 1 small entries underflow to 0:
        ``|v| < 0.01`` at p = 1.05 in float32.

    Raises:
        TypeError: If ``v`` is not floating point, or ``p`` not a number.
        ValueError: If ``p`` is not greater than 1.
    """
    return signed_power(v, 1 / (check_exponent(p) - 1))


def dual_pair(x: Tensor, p: float, *, dim: Dims = -1) -> tuple[Tensor, Tensor]:
    """``x / ||x||_q`` and its image under `primal`, with one power per element between them.

    With a = |x|^(1/(p-1)) and S = sum |x| a = sum |x|^q the two are x S^(-1/q) and sign(x) a S^(-1/p).

    Args:
        x: Rows, shape (..., n), float32 or float64.
        p: Exponent of the weights' sphere, greater than 1.
        dim: The dimension or dimensions that make up a row, or `Segments` of an ``x`` of one dimension.

    Returns:
        Dual weights on the unit Lq sphere and weights on the unit Lp sphere, both in the shape of ``x``; a zero
        row stays zero in both.

    Source: method, section 2, numerics.
    """
    scaled = x / spread(_scale(x.abs(), dim), dim)
    power = signed_power(scaled, 1 / (p - 1))
    total = row_sums(scaled * power, dim)
    total = torch.where(total == 0, torch.ones_like(total), total)
    return scaled * spread(total.pow(1 / p - 1), dim), power * spread(total.pow(-1 / p), dim)
