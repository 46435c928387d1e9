"""The steps of LpSGD on spheres (method, section 2) by tensor operations: tensors in, written in place.

In both forms, on any device and in any floating type of 32 bits or more; tensor after tensor or several at once.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lpsphere.geometry import dual_pair, project

__all__ = ["Form", "multi_tensor", "on_spheres", "single_tensor"]

Form = Literal["dual", "primal"]


def on_spheres(x: Tensor, p: float, form: Form, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The point that the form steps, normalised, and the weights on the unit Lp sphere that belong to it."""
    if form == "dual":
        return dual_pair(x, p, dim=dims)
    unit = project(x, p, dim=dims)
    return unit, unit


def single_tensor(
    weights: list[Tensor],
    points: list[Tensor],
    directions: list[Tensor],
    radii: list[float | Tensor],
    dims: list[tuple[int, ...]],
    *,
    p: float,
    eta: float,
    form: Form,
) -> None:
    """One step of each weight after the other, in place.

    Args:
        weights: Weights w, as `NeuronLayout.split` gives them.
        points: What the form steps, v or w / r, as weights.
        directions: The directions d, as weights.
        radii: Radius of the spheres, for each weight; a tensor broadcasts against it.
        dims: The dimensions of each weight that make up a neuron.
        p: Exponent of the spheres.
        eta: Learning rate.
        form: Which form is stepped.
    """
    for weight, point, direction, radius, dim in zip(weights, points, directions, radii, dims, strict=True):
        toward = dual_pair(direction, p, dim=dim)[form == "primal"]
        moved = (1 - eta) * point - eta * toward
        new_point, unit = on_spheres(moved, p, form, dim)
        still = _still(direction, point, moved, dim, p=p, eta=eta, form=form)
        _write(weight, point, new_point, radius * unit, still)


def multi_tensor(
    weights: list[Tensor],
    points: list[Tensor],
    directions: list[Tensor],
    radii: list[float | Tensor],
    dims: list[tuple[int, ...]],
    *,
    p: float,
    eta: float,
    form: Form,
) -> None:
    """As `single_tensor`, several weights at once."""
    toward = _foreach_pair(directions, p, dims)[form == "primal"]
    moved = list(torch._foreach_mul(points, 1 - eta))
    torch._foreach_sub_(moved, toward, alpha=eta)
    if form == "dual":
        new_points, units = _foreach_pair(moved, p, dims)
    else:
        new_points = units = [project(x, p, dim=dim) for x, dim in zip(moved, dims, strict=True)]
    for i, weight in enumerate(weights):
        still = _still(directions[i], points[i], moved[i], dims[i], p=p, eta=eta, form=form)
        _write(weight, points[i], new_points[i], radii[i] * units[i], still)


def _foreach_pair(xs: list[Tensor], p: float, dims: list[tuple[int, ...]]) -> tuple[list[Tensor], list[Tensor]]:
    """`dual_pair` of several tensors at once."""
    largest = [x.amax(dim, keepdim=True) for x, dim in zip(torch._foreach_abs(xs), dims, strict=True)]
    scales = [torch.where((m > 0) & m.isfinite(), m, torch.ones_like(m)) for m in largest]
    scaled = list(torch._foreach_div(xs, scales))
    powers = list(torch._foreach_pow(torch._foreach_abs(scaled), 1 / (p - 1)))
    torch._foreach_mul_(powers, torch._foreach_sign(scaled))
    totals = [x.sum(dim, keepdim=True) for x, dim in zip(torch._foreach_mul(scaled, powers), dims, strict=True)]
    totals = [torch.where(t == 0, torch.ones_like(t), t) for t in totals]
    torch._foreach_mul_(scaled, torch._foreach_pow(totals, 1 / p - 1))
    torch._foreach_mul_(powers, torch._foreach_pow(totals, -1 / p))
    return scaled, powers


def _still(
    direction: Tensor, point: Tensor, moved: Tensor, dims: tuple[int, ...], *, p: float, eta: float, form: Form
) -> Tensor:
    """Neurons that keep their weights: they have no direction, or it cancels their old point but for rounding."""
    rounding = 16 * torch.finfo(point.dtype).eps / (min(1.0, p - 1) if form == "primal" else 1.0)
    noise = rounding * (1 - eta) * point.abs().amax(dims, keepdim=True)
    return (direction == 0).all(dims, keepdim=True) | (moved.abs().amax(dims, keepdim=True) <= noise)


def _write(weight: Tensor, point: Tensor, new_point: Tensor, new_weight: Tensor, still: Tensor) -> None:
    point.copy_(torch.where(still, point, new_point))
    weight.copy_(torch.where(still, weight, new_weight.to(weight.dtype)))
