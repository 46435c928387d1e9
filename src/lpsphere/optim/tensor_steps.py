"""The steps of LpSGD on spheres (method, section 2) by tensor operations: tensors in, written in place.

In both forms, on any device and in any floating type of 32 bits or more; tensor after tensor or several at once.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lpsphere.geometry import Dims, Segments, dual_pair, lp_norm, project, row_any, row_largest, row_sums, spread

__all__ = ["Form", "multi_tensor", "on_radius", "on_spheres", "radii_of", "single_tensor"]

Form = Literal["dual", "primal"]


def on_spheres(x: Tensor, p: float, form: Form, dims: Dims) -> tuple[Tensor, Tensor]:
    """The point that the form steps, normalised, and the weights on the unit Lp sphere that belong to it."""
    if form == "dual":
        return dual_pair(x, p, dim=dims)
    unit = project(x, p, dim=dims)
    return unit, unit


def on_radius(radius: float | Tensor, unit: Tensor, dims: Dims) -> Tensor:
    """Weights on the unit sphere moved to the sphere of a radius, or of each neuron's."""
    if isinstance(radius, Tensor) and isinstance(dims, Segments):
        radius = spread(radius.flatten(), dims)
    return radius * unit


def radii_of(weights: Tensor, p: float, dims: Dims) -> Tensor:
    """The norm of each neuron, with as many dimensions as broadcast; of segments, (neurons, 1).

    A radius for each neuron is never mistaken then for one value for each connection.
    """
    norms = lp_norm(weights, p, dim=dims, keepdim=True)
    return norms.unsqueeze(1) if isinstance(dims, Segments) else norms


def single_tensor(
    weights: list[Tensor],
    points: list[Tensor],
    directions: list[Tensor],
    radii: list[float | Tensor],
    dims: list[Dims],
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
        radii: Radius of the spheres, for each weight; a tensor has one for each neuron, as `radii_of` gives them.
        dims: What of each weight makes up a neuron.
        p: Exponent of the spheres.
        eta: Learning rate.
        form: Which form is stepped.
    """
    for weight, point, direction, radius, dim in zip(weights, points, directions, radii, dims, strict=True):
        toward = dual_pair(direction, p, dim=dim)[form == "primal"]
        moved = (1 - eta) * point - eta * toward
        new_point, unit = on_spheres(moved, p, form, dim)
        still = _still(direction, point, moved, dim, p=p, eta=eta, form=form)
        _write(weight, point, new_point, on_radius(radius, unit, dim), still)


def multi_tensor(
    weights: list[Tensor],
    points: list[Tensor],
    directions: list[Tensor],
    radii: list[float | Tensor],
    dims: list[Dims],
    *,
    p: float,
    eta: float,
    form: Form,
) -> None:
    """As `single_tensor`, several weights at once; none of them in segments."""
    toward = _foreach_pair(directions, p, dims)[form == "primal"]
    moved = list(torch._foreach_mul(points, 1 - eta))
    torch._foreach_sub_(moved, toward, alpha=eta)
    if form == "dual":
        new_points, units = _foreach_pair(moved, p, dims)
    else:
        new_points = units = [project(x, p, dim=dim) for x, dim in zip(moved, dims, strict=True)]
    for i, weight in enumerate(weights):
        still = _still(directions[i], points[i], moved[i], dims[i], p=p, eta=eta, form=form)
        _write(weight, points[i], new_points[i], on_radius(radii[i], units[i], dims[i]), still)


def _foreach_pair(xs: list[Tensor], p: float, dims: list[Dims]) -> tuple[list[Tensor], list[Tensor]]:
    """`dual_pair` of several tensors at once."""
    largest = [row_largest(x, dim) for x, dim in zip(torch._foreach_abs(xs), dims, strict=True)]
    scales = [torch.where((m > 0) & m.isfinite(), m, torch.ones_like(m)) for m in largest]
    scaled = list(torch._foreach_div(xs, scales))
    powers = list(torch._foreach_pow(torch._foreach_abs(scaled), 1 / (p - 1)))
    torch._foreach_mul_(powers, torch._foreach_sign(scaled))
    totals = [row_sums(x, dim) for x, dim in zip(torch._foreach_mul(scaled, powers), dims, strict=True)]
    totals = [torch.where(t == 0, torch.ones_like(t), t) for t in totals]
    torch._foreach_mul_(scaled, torch._foreach_pow(totals, 1 / p - 1))
    torch._foreach_mul_(powers, torch._foreach_pow(totals, -1 / p))
    return scaled, powers


def _still(direction: Tensor, point: Tensor, moved: Tensor, dims: Dims, *, p: float, eta: float, form: Form) -> Tensor:
    """Neurons that keep their weights: they have no direction, or it cancels their old point but for rounding."""
    rounding = 16 * torch.finfo(point.dtype).eps / (min(1.0, p - 1) if form == "primal" else 1.0)
    noise = rounding * (1 - eta) * row_largest(point.abs(), dims)
    return spread(~row_any(direction != 0, dims) | (row_largest(moved.abs(), dims) <= noise), dims)


def _write(weight: Tensor, point: Tensor, new_point: Tensor, new_weight: Tensor, still: Tensor) -> None:
    point.copy_(torch.where(still, point, new_point))
    weight.copy_(torch.where(still, weight, new_weight.to(weight.dtype)))
