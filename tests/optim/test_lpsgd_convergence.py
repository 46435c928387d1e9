"""Least squares with one neuron: LpSGD ends at a stationary point of the constrained problem."""

import pytest
import torch

from lpsphere import LpSGD

INPUTS, STARTS = 20, 4


def q_norm(x, q):
    largest = x.abs().amax(-1, keepdim=True)
    return (largest * (x.abs() / largest).pow(q).sum(-1, keepdim=True).pow(1 / q)).squeeze(-1)


def relative_residuals(p, form, steps):
    """Of four starts with the optimum inside the unit sphere, and of four with it outside.

    Schedule: eta falls geometrically from 0.05 to 0.0005.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, INPUTS, generator=generator, dtype=torch.float64)
    inside, outside = torch.randn(2, INPUTS, generator=generator, dtype=torch.float64)
    size = lambda x: x.abs().pow(p).sum().pow(1 / p)  # noqa: E731
    optimum = torch.stack([0.5 * inside / size(inside)] * STARTS + [2 * outside / size(outside)] * STARTS)
    curvature = inputs.T @ inputs / len(inputs)
    w = torch.nn.Parameter(torch.randn(2 * STARTS, INPUTS, generator=generator, dtype=torch.float64))
    optimizer = LpSGD([w], p=p, form=form)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.01 ** (step / steps)
        w.grad = (w.detach() - optimum) @ curvature
        optimizer.step()
    weights = w.detach()
    g = (weights - optimum) @ curvature
    multiplier = -(g * weights).sum(-1, keepdim=True)
    q = p / (p - 1)
    residual = q_norm(g + multiplier * weights.sign() * weights.abs().pow(p - 1), q) / q_norm(g, q)
    return residual[:STARTS], residual[STARTS:], multiplier.flatten()


def check(p, form, steps):
    inside, outside, multiplier = relative_residuals(p, form, steps)
    assert inside.max() < 1e-8
    assert outside.max() < 1e-8
    assert (multiplier[STARTS:] > 0).all()


@pytest.mark.parametrize(("p", "form", "steps"), [(1.1, "dual", 3000), (3.0, "primal", 3000), (1.5, "dual", 6000)])
def test_least_squares_on_the_sphere_ends_at_a_stationary_point(p, form, steps):
    check(p, form, steps)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dual", "primal"])
@pytest.mark.parametrize("p", [1.1, 1.2, 1.5, 2.0, 3.0])
def test_least_squares_ends_at_a_stationary_point_for_every_p_and_form(p, form):
    check(p, form, 10_000)
