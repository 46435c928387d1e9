"""LpSGD beside its slow float64 twin, step by step."""

import numpy as np
import pytest
import torch

from lpsphere import LpSGD
from lpsphere.neurons import NeuronLayout
from lpsphere.optim.reference import ReferenceLpSGD

MOMENTA = {
    "no momentum": {},
    "plain": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.5},
    "Nesterov": {"momentum": 0.9, "nesterov": True},
}
# shape, layout, radius, masked
TENSORS = [
    ((3, 25), NeuronLayout(), 1.0, False),
    ((3, 2, 3, 3), NeuronLayout(), 2.5, True),
    ((4, 2, 3, 3), NeuronLayout(1, 2), "init", True),
    ((5, 3, 4), NeuronLayout(1), "init", False),
]
EVERY = [(p, form, name) for p in (1.05, 1.1, 1.3, 2, 4) for form in ("dual", "primal") for name in MOMENTA]
SOME = [case for case in EVERY if case[0] in (1.05, 4) and case[2] == "Nesterov"]
RUNS = [
    *[(torch.float64, False, *case) for case in EVERY],
    *[(torch.float32, True, *case) for case in EVERY if case[2] in ("no momentum", "Nesterov")],
    *[(torch.float64, True, *case) for case in SOME],
    *[(torch.float32, False, *case) for case in SOME],
    *[(torch.float32, None, *case) for case in EVERY if case[1] == "dual"],
]
PRODUCT = [
    (dtype, foreach, *case) for dtype in (torch.float64, torch.float32) for foreach in (False, True) for case in EVERY
]
REST = [pytest.param(*run, marks=pytest.mark.slow) for run in PRODUCT if run not in RUNS]


def start(dtype, p, form, foreach, momentum):
    """The optimizer over all tensors, and for each its parameter, layout and twin."""
    generator = torch.Generator().manual_seed(0)
    groups, twins = [], []
    for shape, layout, radius, masked in TENSORS:
        param = torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        mask = torch.randn(shape, generator=generator) > 0 if masked else None
        if mask is not None:
            rows = layout.to_rows(mask)
            rows[0] = False  # a dead neuron
            rows[1] = torch.arange(rows.shape[1]) == 2  # one connection
            mask = layout.from_rows(rows, mask)
        twins.append(
            (
                param,
                layout,
                mask,
                ReferenceLpSGD(
                    layout.to_rows(param.detach()).double().numpy(),
                    p,
                    0.0,
                    r=None if radius == "init" else radius,
                    mu=momentum.get("momentum", 0.0),
                    dampening=momentum.get("dampening", 0.0),
                    nesterov=momentum.get("nesterov", False),
                    form=form,
                    mask=None if mask is None else layout.to_rows(mask).numpy(),
                ),
            )
        )
        groups.append(
            {"params": [param], "radius": radius, "neuron_dim": layout.neuron_dim, "neuron_groups": layout.groups}
        )
    optimizer = LpSGD(groups, p=p, form=form, foreach=foreach, **momentum)
    for param, _, mask, _ in twins:
        if mask is not None:
            assert optimizer.on_topology(param, mask)
    return optimizer, twins


def dual(w, p):
    return np.sign(w) * np.abs(w) ** (p - 1)


def compare(optimizer, twins, p, form, tolerance):
    """Weights on the unit sphere, the state and the momentum; entries of the first two are at most 1."""
    for param, layout, mask, twin in twins:
        radii = np.array(twin.r)[:, None]
        weights = layout.to_rows(param.detach()).double().numpy() / radii
        expected = twin.w / radii
        point = layout.to_rows(optimizer.state[param][form]).double().numpy()
        expected_point = twin.v if form == "dual" else expected
        if p > 2:  # w has infinite slope in v at 0
            weights, expected = dual(weights, p), dual(expected, p)
            if form == "primal":
                point, expected_point = dual(point, p), expected
        np.testing.assert_allclose(weights, expected, rtol=0, atol=tolerance)
        np.testing.assert_allclose(point, expected_point, rtol=0, atol=tolerance)
        if mask is not None:
            assert (param[~mask] == 0).all()
            assert (optimizer.state[param][form][~mask] == 0).all()
        if twin.m is not None:
            momentum = layout.to_rows(optimizer.state[param]["momentum_buffer"]).double().numpy()
            np.testing.assert_allclose(momentum, twin.m, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "foreach", "p", "form", "momentum"), [*RUNS, *REST])
def test_a_hundred_steps_are_those_of_the_twin(dtype, foreach, p, form, momentum):
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    optimizer, twins = start(dtype, p, form, foreach, MOMENTA[momentum])
    compare(optimizer, twins, p, form, tolerance)
    generator = torch.Generator().manual_seed(1)
    for step in range(100):
        eta = 0.05 * 0.97**step
        for group, (param, layout, _, twin) in zip(optimizer.param_groups, twins, strict=True):
            param.grad = torch.randn(param.shape, generator=generator, dtype=torch.float64).to(dtype)
            group["lr"] = twin.eta = eta
            twin.step(layout.to_rows(param.grad).double().numpy())
        optimizer.step()
        if step in (0, 1, 99):
            compare(optimizer, twins, p, form, tolerance)


def test_maximize_is_the_step_along_the_negated_gradient():
    generator = torch.Generator().manual_seed(0)
    w, g = (torch.randn(3, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    up, down = torch.nn.Parameter(w.clone()), torch.nn.Parameter(w.clone())
    rising = LpSGD([up], p=1.2, lr=0.1, momentum=0.9, maximize=True)
    falling = LpSGD([down], p=1.2, lr=0.1, momentum=0.9)
    for scale in (1.0, -2.0, 3.0):
        up.grad, down.grad = scale * g, -scale * g
        rising.step()
        falling.step()
    assert torch.equal(up, down)
    assert not torch.allclose(up, w)
