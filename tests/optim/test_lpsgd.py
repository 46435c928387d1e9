"""What LpSGD promises of one step, of its arguments, and of weights that others change."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lpsphere import LpSGD, param_groups
from lpsphere.geometry import dual, lp_norm, project
from lpsphere.neurons import NeuronLayout, select

FORMS = ["dual", "primal"]
FOREACH = (False, True, None)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def parameter(*shape, seed=0, dtype=torch.float32):
    return nn.Parameter(randn(*shape, seed=seed, dtype=dtype))


def network(seed=0):
    """Linear, grouped convolution and transposed convolutions; input (n, 2, 4, 4)."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.BatchNorm2d(4),
        nn.ConvTranspose2d(4, 4, 2),
        nn.BatchNorm2d(4),
        nn.ConvTranspose2d(4, 6, 2, groups=2),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(216, 8),
        nn.LayerNorm(8),
        nn.Linear(8, 3),
    )


def groups_of(model, p=1.2, **kwargs):
    return param_groups(model, p, lr=0.05, other_lr=0.1, **kwargs)


def loss_of(model, seed=0):
    x, y = randn(8, 2, 4, 4, seed=seed), randn(8, 3, seed=seed + 1)
    return (model(x) - y).square().mean()


def sphere_errors(model, p, radius=1.0):
    """Largest | ||w||_p - r | / r of each selected weight, by another road than the library's."""
    errors = []
    for neuron in select(model):
        rows = neuron.layout.to_rows(neuron.weight.detach()).double()
        norms = (torch.logsumexp(p * rows.abs().log(), -1) / p).exp()
        errors.append(float((norms - radius).abs().max() / radius))
    return errors


# One step.


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("foreach", FOREACH)
@pytest.mark.parametrize("p", [1.05, 1.3, 3.0])
def test_the_size_of_the_gradient_does_not_matter(p, form, foreach):
    g = randn(5, 40, seed=1)

    def step(scale):
        w = parameter(5, 40)
        w.grad = g * scale
        LpSGD([w], p=p, lr=0.1, form=form, foreach=foreach).step()
        return w.detach()

    for scale in (2.0**-100, 2.0**100):  # exact in float32
        assert torch.equal(step(scale), step(1.0))
    for scale in (1e-30, 1e-6, 1e30):
        assert_close(step(scale), step(1.0), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(step(1.0), project(randn(5, 40), p), atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("foreach", FOREACH)
@pytest.mark.parametrize("radius", [1.0, 2.5, "init"])
def test_a_zero_gradient_leaves_the_neuron_bit_for_bit(form, foreach, radius):
    w = parameter(4, 9)
    optimizer = LpSGD([w], p=1.1, lr=0.3, form=form, foreach=foreach, radius=radius)
    before, point = w.detach().clone(), optimizer.state[w][form].clone()
    w.grad = randn(4, 9, seed=1)
    w.grad[[0, 2]] = 0
    optimizer.step()
    assert torch.equal(w[[0, 2]], before[[0, 2]])
    assert torch.equal(optimizer.state[w][form][[0, 2]], point[[0, 2]])
    assert (w[[1, 3]] != before[[1, 3]]).any(1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("foreach", FOREACH)
@pytest.mark.parametrize("p", [1.05, 1.3, 3.0])
def test_a_step_that_cancels_the_old_point_leaves_the_neuron(p, form, foreach, dtype):
    """(1 - eta) v = eta u at eta = 1/2: what rounding leaves over is no direction."""
    w = parameter(20, 9, dtype=dtype)
    optimizer = LpSGD([w], p=p, lr=0.5, form=form, foreach=foreach)
    before = w.detach().clone()
    w.grad = 3.7 * (optimizer.state[w]["dual"] if form == "dual" else dual(before, p))
    optimizer.step()
    assert torch.equal(w, before)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("foreach", FOREACH)
def test_a_neuron_without_connections_stays_zero(form, foreach):
    w = parameter(3, 6)
    optimizer = LpSGD([w], p=1.2, lr=0.1, momentum=0.9, form=form, foreach=foreach)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1] = False
    optimizer.on_topology(w, mask)
    for seed in range(5):
        w.grad = randn(3, 6, seed=seed)
        optimizer.step()
        assert (w[1] == 0).all()
        assert (w[[0, 2]] != 0).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_neuron_with_one_connection_is_fixed_below_eta_one_half(form, sign):
    w = nn.Parameter(torch.tensor([[0.0, 0.3 * sign, 0.0], [1.0, 2.0, 3.0]]))
    optimizer = LpSGD([w], p=1.2, radius=2.5, form=form)
    optimizer.on_topology(w, torch.tensor([[False, True, False], [True, True, True]]))
    for eta, end in ((0.1, sign), (0.49, sign), (0.5, sign), (0.51, -sign)):
        optimizer.param_groups[0]["lr"] = eta
        w.grad = torch.full((2, 3), 4.0 * sign)
        optimizer.step()
        assert_close(w[0].detach(), torch.tensor([0.0, 2.5 * end, 0.0]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("foreach", FOREACH)
def test_eta_may_be_zero_or_one(form, foreach):
    w = parameter(3, 7, dtype=torch.float64)
    optimizer = LpSGD([w], p=1.4, lr=0.0, form=form, foreach=foreach)
    before = w.detach().clone()
    w.grad = randn(3, 7, seed=1, dtype=torch.float64)
    optimizer.step()
    assert_close(w.detach(), before, rtol=1e-14, atol=0)
    optimizer.param_groups[0]["lr"] = 1.0  # conditional gradient's whole step: v = -g / ||g||_q
    optimizer.step()
    assert_close(dual(w.detach(), 1.4), -project(w.grad, 1.4 / 0.4))


@pytest.mark.parametrize("eta", [1.01, 5.0, -0.1, math.nan])
def test_eta_outside_0_to_1_is_an_error_at_the_step(eta):
    w = parameter(3, 7)
    optimizer = LpSGD([{"params": [w], "name": "stem"}], p=1.4)
    before = w.detach().clone()
    w.grad = torch.ones_like(w)
    optimizer.param_groups[0]["lr"] = eta
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\], got {eta} \(group 'stem'\).*other_lr"):
        optimizer.step()
    assert torch.equal(w, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("foreach", FOREACH)
def test_a_gradient_that_is_not_finite_shows_in_its_neuron_and_in_no_other(form, foreach, bad):
    def step(entry):
        w = parameter(4, 6)
        w.grad = randn(4, 6, seed=1)
        if entry is not None:
            w.grad[2, 3] = entry
        LpSGD([w], p=1.2, lr=0.1, form=form, foreach=foreach).step()
        return w.detach()

    spoiled, clean = step(bad), step(None)
    assert spoiled[2].isnan().any()
    assert torch.equal(spoiled[[0, 1, 3]], clean[[0, 1, 3]])
    assert clean.isfinite().all()


def test_the_users_gradient_is_never_written_to():
    for foreach in FOREACH:
        for form in FORMS:
            for kwargs in ({}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "maximize": True}):
                w, b = parameter(4, 6), parameter(4)
                groups = [{"params": [w], "p": 1.2}, {"params": [b], "p": None, "weight_decay": 0.1}]
                optimizer = LpSGD(groups, lr=0.1, form=form, foreach=foreach, **kwargs)
                optimizer.on_topology(w, randn(4, 6) > 0)
                w.grad, b.grad = randn(4, 6, seed=1), randn(4, seed=2)
                for _ in range(3):
                    optimizer.step()
                    assert torch.equal(w.grad, randn(4, 6, seed=1))
                    assert torch.equal(b.grad, randn(4, seed=2))


@pytest.mark.parametrize("groups", [{}, {"momentum": 0.9}])
def test_a_sparse_gradient_is_an_error_with_the_remedy(groups):
    table = nn.Embedding(5, 4, sparse=True)
    optimizer = LpSGD(table.parameters(), p=1.2, **groups)
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match=r"dense gradients only: use nn.Embedding\(\.\.\., sparse=False\)"):
        optimizer.step()


def test_a_parameter_without_gradient_stays_where_it_is():
    a, b = parameter(3, 5), parameter(3, 5, seed=1)
    optimizer = LpSGD([a, b], p=1.2, lr=0.1, momentum=0.9)
    before = b.detach().clone()
    a.grad = randn(3, 5, seed=2)
    optimizer.step()
    assert torch.equal(b, before)
    assert "momentum_buffer" not in optimizer.state[b]


# On the sphere after every step.


RUNS = [(p, form, foreach, "none") for p in (1.05, 1.2, 2.0, 4.0) for form in FORMS for foreach in FOREACH]
RUNS += [(1.2, form, False, closure) for form in FORMS for closure in ("positional", "keyword")]


@pytest.mark.parametrize(("p", "form", "foreach", "closure"), RUNS)
def test_every_neuron_of_a_network_is_on_its_sphere_after_every_step(p, form, foreach, closure):
    model = network()
    optimizer = LpSGD(groups_of(model, p), momentum=0.9, nesterov=True, form=form, foreach=foreach)
    assert max(sphere_errors(model, p)) < 1e-5

    def backward():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    losses = []
    for _ in range(8):
        if closure == "none":
            losses.append(backward().item())
            assert optimizer.step() is None
        else:
            losses.append(
                (optimizer.step(backward) if closure == "positional" else optimizer.step(closure=backward)).item()
            )
        assert len(sphere_errors(model, p)) == 4
        assert max(sphere_errors(model, p)) < 1e-5
    assert losses[-1] < losses[0]


def test_with_a_closure_the_steps_are_the_same():
    plain, closed = network(), network()
    first, second = LpSGD(groups_of(plain), momentum=0.9), LpSGD(groups_of(closed), momentum=0.9)

    def closure():
        second.zero_grad()
        loss = loss_of(closed)
        loss.backward()
        return loss

    for _ in range(3):
        first.zero_grad()
        loss_of(plain).backward()
        first.step()
        second.step(closure)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), closed.parameters(), strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_a_radius_and_the_initial_norms_are_kept(form):
    for radius in (2.5, "init"):
        w = parameter(4, 9)
        w.data[3] *= 100
        norms = torch.full((4,), 2.5) if radius == 2.5 else lp_norm(w.detach(), 1.2)
        before = w.detach().clone()
        optimizer = LpSGD([w], p=1.2, lr=0.1, radius=radius, form=form)
        if radius == "init":
            assert_close(w.detach(), before, rtol=1e-6, atol=0)
        for seed in range(10):
            w.grad = randn(4, 9, seed=seed)
            optimizer.step()
            assert_close(lp_norm(w.detach(), 1.2), norms, rtol=1e-5, atol=0)


def test_autocast_in_bfloat16_trains():
    model = network()
    optimizer = LpSGD(groups_of(model), momentum=0.9)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert max(sphere_errors(model, 1.2)) < 1e-5
    assert losses[-1] < losses[0]


def test_learning_rate_schedulers_work():
    model = network()
    optimizer = LpSGD(groups_of(model), momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[0.05, 0.05, 0.05, 0.4], total_steps=10)
    rates = []
    for _ in range(10):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step() if len(rates) < 10 else None
    assert max(rates) == pytest.approx(0.05, rel=1e-2)
    assert rates[-1] < 1e-5
    assert max(sphere_errors(model, 1.2)) < 1e-5
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)
    for _ in range(4):
        optimizer.step()
        cosine.step()


def test_a_learning_rate_set_by_hand_is_the_one_of_the_next_step():
    def end(constructed, set_later):
        w = parameter(3, 5)
        optimizer = LpSGD([w], p=1.2, lr=constructed)
        optimizer.param_groups[0]["lr"] = set_later
        w.grad = randn(3, 5, seed=1)
        optimizer.step()
        return w.detach()

    assert torch.equal(end(0.01, 0.3), end(0.3, 0.3))
    assert not torch.equal(end(0.01, 0.3), end(0.01, 0.01))


# Weights that others change.


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("foreach", FOREACH)
def test_after_loading_a_model_the_next_step_starts_from_its_weights(form, foreach):
    model, fresh = network(), network(seed=7)
    optimizer = LpSGD(groups_of(model), form=form, foreach=foreach)
    for seed in range(3):
        optimizer.zero_grad()
        loss_of(model, seed).backward()
        optimizer.step()
    model.load_state_dict(network(seed=7).state_dict())
    other = LpSGD(groups_of(fresh), form=form, foreach=foreach)
    for neuron in select(model):
        assert not torch.equal(neuron.weight, select(fresh)[0].weight)
    for m, o in ((model, optimizer), (fresh, other)):
        o.zero_grad()
        generator = torch.Generator().manual_seed(5)
        for parameter_ in m.parameters():
            parameter_.grad = torch.randn(parameter_.shape, generator=generator)
        o.step()
    for (name, a), b in zip(model.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert max(sphere_errors(model, 1.2)) < 1e-5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_in_place_change_is_taken_over_by_its_neuron_and_no_other(form, dtype):
    w = parameter(3, 6, dtype=dtype)
    optimizer = LpSGD([w], p=1.3, lr=0.1, form=form)
    with torch.no_grad():
        w[1, 2] *= 1.05  # a change of a few units in the last place of bfloat16
        w[1, 3] = -5.0
    expected = w.detach().float().clone()
    points = optimizer.state[w][form].clone()
    w.grad = torch.zeros_like(w)
    optimizer.step()
    tolerance = 4 * torch.finfo(dtype).eps
    assert_close(w[1].detach().float(), project(expected, 1.3)[1], rtol=tolerance, atol=0)
    assert_close(w[[0, 2]].detach().float(), expected[[0, 2]], rtol=0, atol=0)
    assert torch.equal(optimizer.state[w][form][[0, 2]], points[[0, 2]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_change_of_one_weight_is_not_undone(dtype):
    w = nn.Parameter(torch.tensor([[0.5, -0.25, 0.125, 1.0]], dtype=dtype))
    optimizer = LpSGD([w], p=2.0, lr=0.1)
    before = w.detach().clone()
    with torch.no_grad():
        w[0, 1] *= 1 + 4 * torch.finfo(dtype).eps * (40 if dtype == torch.float32 else 1)
    changed = w.detach().double().clone()
    w.grad = torch.zeros_like(w)
    optimizer.step()
    v = optimizer.state[w]["dual"].double()  # at p = 2 it is w
    assert (v[0, 1] / v[0, 3]).item() == pytest.approx((changed[0, 1] / changed[0, 3]).item(), rel=1e-6)
    assert changed[0, 1] != before[0, 1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("p", "new"), [(1.05, 1.5), (1.3, 1.1), (2.0, 3.0), (3.0, 1.2)])
def test_a_changed_p_moves_the_neurons_radially(form, p, new):
    w = parameter(4, 9, dtype=torch.float64)
    optimizer = LpSGD([w], p=p, radius=2.5, form=form)
    before = w.detach().clone()
    optimizer.param_groups[0]["p"] = new
    w.grad = torch.zeros_like(w)
    w.grad[3] = randn(9, seed=1, dtype=torch.float64)
    optimizer.step()
    assert_close(w[:3].detach(), project(before, new, 2.5)[:3], rtol=1e-10, atol=1e-300)
    assert_close(lp_norm(w.detach(), new), torch.full((4,), 2.5, dtype=torch.float64))
    fresh = nn.Parameter(before.clone())
    other = LpSGD([fresh], p=new, radius=2.5, form=form)
    fresh.grad = w.grad
    other.step()
    assert_close(w.detach(), fresh.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_with_initial_norms_a_changed_p_leaves_the_weights(form):
    w = parameter(4, 9)
    optimizer = LpSGD([w], p=1.2, radius="init", form=form)
    before = w.detach().clone()
    optimizer.param_groups[0]["p"] = 1.6
    w.grad = torch.zeros_like(w)
    optimizer.step()
    assert torch.equal(w, before)
    w.grad = randn(4, 9, seed=1)
    optimizer.step()
    assert_close(lp_norm(w.detach(), 1.6), lp_norm(before, 1.6), rtol=1e-5, atol=0)
    assert not torch.allclose(w, before)


def test_a_changed_form_starts_from_the_weights_and_not_from_old_state():
    w = parameter(4, 9)
    optimizer = LpSGD([w], p=1.2, lr=0.1)
    for form in ("primal", "dual"):
        optimizer.param_groups[0]["form"] = form
        before = w.detach().clone()
        w.grad = randn(4, 9, seed=1)
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.step()
        fresh = nn.Parameter(before)
        fresh.grad = w.grad
        LpSGD([fresh], p=1.2, lr=0.1, form=form).step()
        assert_close(w.detach(), fresh.detach(), rtol=1e-4, atol=1e-6)


def test_plain_weights_that_are_given_a_p_go_onto_their_spheres():
    w = parameter(3, 5)
    optimizer = LpSGD([{"params": [w], "p": None}], lr=0.1)
    optimizer.param_groups[0]["p"] = 1.2
    w.grad = torch.zeros_like(w)
    optimizer.step()
    assert_close(w.detach(), project(randn(3, 5), 1.2))


# Masks.


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loaded", [False, True])
def test_a_new_mask_puts_the_neurons_back_on_their_spheres(form, loaded):
    """Even when the weights were changed or state was loaded since the last step."""
    w = parameter(4, 9, dtype=torch.float64)
    optimizer = LpSGD([w], p=1.2, lr=0.1, momentum=0.9, form=form)
    w.grad = randn(4, 9, seed=1, dtype=torch.float64)
    optimizer.step()
    if loaded:
        optimizer.load_state_dict(optimizer.state_dict())
    before, mask = w.detach().clone(), randn(4, 9, seed=2) > 0
    assert optimizer.on_topology(w, mask)
    assert_close(w.detach(), project(before * mask, 1.2), rtol=1e-10, atol=0)
    assert (optimizer.state[w]["momentum_buffer"][~mask] == 0).all()
    assert (optimizer.state[w]["momentum_buffer"][mask] != 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_that_is_changed_in_place_is_followed(form):
    w, mask = parameter(4, 9), torch.ones(4, 9, dtype=torch.bool)
    optimizer = LpSGD([w], p=1.05, lr=0.1, form=form)
    optimizer.on_topology(w, mask)
    mask[:, ::2] = False
    with torch.no_grad():
        w.mul_(1)  # someone else's hand on the weights
    assert optimizer.on_topology(w, mask)
    assert (w[:, ::2] == 0).all()
    assert_close(lp_norm(w.detach(), 1.05), torch.ones(4), rtol=1e-5, atol=0)
    w.grad = randn(4, 9, seed=3)
    optimizer.step()
    assert (w[:, ::2] == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_new_connections_start_where_they_are_told(form):
    w = parameter(3, 8, dtype=torch.float64)
    optimizer = LpSGD([w], p=1.3, form=form)
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[:, 6:] = False
    optimizer.on_topology(w, mask)
    v = dual(w.detach(), 1.3)
    start = torch.zeros(3, 8, dtype=torch.float64)
    start[0, 6], start[1, 7] = -0.5, 2.0
    optimizer.on_topology(w, mask | (start != 0), start)
    expected = v + start * v[:, :6].abs().mean(1, keepdim=True)
    assert_close(dual(w.detach(), 1.3), project(expected, 1.3 / 0.3))
    assert_close(w[2].detach(), project(randn(3, 8, dtype=torch.float64) * mask, 1.3)[2])


def test_the_mask_may_be_lifted():
    w = parameter(3, 8)
    optimizer = LpSGD([w], p=1.3, lr=0.1)
    mask = randn(3, 8) > 0
    optimizer.on_topology(w, mask)
    assert optimizer.on_topology(w, None)
    w.grad = randn(3, 8, seed=1)
    optimizer.step()
    assert (w != 0).all()


def test_plain_weights_leave_their_masks_to_the_caller():
    w = parameter(3, 4)
    optimizer = LpSGD([{"params": [w], "p": None}], lr=0.1)
    before = w.detach().clone()
    assert optimizer.on_topology(w, torch.zeros(3, 4, dtype=torch.bool)) is False
    assert torch.equal(w, before)


def test_wrong_masks_are_refused():
    w = parameter(3, 4)
    optimizer = LpSGD([w], p=1.2)
    with pytest.raises(ValueError, match="this optimizer does not have that parameter: build it from the same model"):
        optimizer.on_topology(parameter(3, 4), torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"expected a bool mask of shape \(3, 4\), got torch.bool \(4, 3\)"):
        optimizer.on_topology(w, torch.ones(4, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"expected a bool mask of shape \(3, 4\), got torch.float32 \(3, 4\)"):
        optimizer.on_topology(w, torch.ones(3, 4))


# Groups and arguments.


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "dampening": 0.3},
        {"weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
        {"momentum": 0.5, "dampening": 0.1, "weight_decay": 0.01, "foreach": True},
        {"momentum": 0.5, "weight_decay": 0.01, "foreach": False},
    ],
)
def test_groups_without_p_take_the_step_of_torch_bit_for_bit(kwargs):
    ours, theirs = network(), network()
    optimizer = LpSGD([{"params": list(ours.parameters()), "p": None}], lr=0.1, **kwargs)
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1, **kwargs)
    for seed in range(10):
        for model, o in ((ours, optimizer), (theirs, reference)):
            generator = torch.Generator().manual_seed(seed)
            for param in model.parameters():
                param.grad = torch.randn(param.shape, generator=generator)
            model[9].bias.grad = None
            o.step()
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert not torch.equal(ours[0].weight, network()[0].weight)


def test_p_may_be_given_once_for_all_groups_and_replaced_in_one():
    a, b, c = parameter(3, 5), parameter(3, 5, seed=1), parameter(5)
    LpSGD([{"params": [a]}, {"params": [b], "p": 1.5, "radius": 2}, {"params": [c], "p": None}], p=1.2)
    assert_close(a.detach(), project(randn(3, 5), 1.2))
    assert_close(b.detach(), project(randn(3, 5, seed=1), 1.5, 2))
    assert torch.equal(c, randn(5))


def test_named_parameters_and_a_single_group_are_taken():
    model = nn.Linear(4, 3, bias=False)
    optimizer = LpSGD(model.named_parameters(), p=1.2)
    assert optimizer.param_groups[0]["param_names"] == ["weight"]
    assert_close(lp_norm(model.weight.detach(), 1.2), torch.ones(3))
    w = parameter(3, 4)
    LpSGD({"params": w, "p": 1.2})
    assert_close(lp_norm(w.detach(), 1.2), torch.ones(3))


def test_the_neuron_dimension_decides_what_is_a_row():
    w = parameter(4, 6)
    LpSGD([{"params": [w], "neuron_dim": 1}], p=1.2)
    assert_close(lp_norm(w.detach(), 1.2, dim=0), torch.ones(6))
    w = parameter(4, 6, 2)
    LpSGD([{"params": [w], "neuron_dim": 1, "neuron_groups": 2}], p=1.2)
    assert_close(lp_norm(w.detach().view(2, 2, 6, 2), 1.2, dim=(1, 3)), torch.ones(2, 6))


def test_an_added_group_is_put_on_its_spheres():
    a, b = parameter(3, 5), parameter(3, 5, seed=1)
    optimizer = LpSGD([a], p=1.2, lr=0.1, momentum=0.9)
    optimizer.add_param_group({"params": b, "p": 1.6, "radius": "init", "lr": 0.2})
    assert optimizer.param_groups[1]["momentum"] == 0.9
    assert_close(b.detach(), randn(3, 5, seed=1))
    a.grad = b.grad = randn(3, 5, seed=2)
    optimizer.step()
    assert_close(lp_norm(a.detach(), 1.2), torch.ones(3))
    assert_close(lp_norm(b.detach(), 1.6), lp_norm(randn(3, 5, seed=1), 1.6))
    assert not torch.allclose(b, randn(3, 5, seed=1))


W, V = (3, 4), (4,)
REFUSED = [
    ({"p": 1}, ValueError, "p must be finite and greater than 1, got 1"),
    ({"p": "1.2"}, TypeError, "p must be a number greater than 1, got '1.2'"),
    ({"p": 1.2, "radius": 0}, ValueError, 'radius must be a positive number or "init", got 0'),
    ({"p": 1.2, "radius": "one"}, TypeError, "radius must be .* got 'one'"),
    ({"p": 1.2, "lr": -0.1}, ValueError, "lr must be at least 0, got -0.1"),
    ({"p": 1.2, "lr": math.nan}, ValueError, "lr must be at least 0, got nan"),
    ({"p": 1.2, "lr": 1.5}, ValueError, r"must be in \[0, 1\], got 1.5 \(group 'p=1.2'\)"),
    ({"p": 1.2, "momentum": -0.9}, ValueError, "momentum must be at least 0, got -0.9"),
    ({"p": None, "weight_decay": -1.0}, ValueError, "weight_decay must be at least 0, got -1.0"),
    ({"p": 1.2, "weight_decay": 0.1}, ValueError, "weight_decay must be 0 for weights on spheres, got 0.1"),
    ({"p": 1.2, "nesterov": True}, ValueError, "nesterov needs momentum above 0 and dampening 0, got momentum=0.0"),
    ({"p": 1.2, "nesterov": True, "momentum": 0.9, "dampening": 0.1}, ValueError, "nesterov needs .* dampening=0.1"),
    ({"p": 1.2, "form": "both"}, ValueError, 'form must be "dual" or "primal", got \'both\''),
    ({"p": 1.2, "neuron_dim": 2}, ValueError, r"neuron_dim=2, neuron_groups=1 do not fit a tensor of shape \(3, 4\)"),
    ({"p": 1.2, "neuron_dim": -1}, ValueError, "neuron_dim=-1, neuron_groups=1 do not fit"),
    ({"p": 1.2, "neuron_dim": 1, "neuron_groups": 2}, ValueError, "neuron_dim=1, neuron_groups=2 do not fit"),
    ({"p": 1.2, "neuron_groups": 0}, ValueError, "neuron_groups must be at least 1, got 0"),
]


@pytest.mark.parametrize(("group", "error", "message"), REFUSED)
def test_wrong_groups_are_refused_at_once_and_when_added(group, error, message):
    with pytest.raises(error, match=message):
        LpSGD([{"params": [parameter(3, 4)], **group}])
    w, b = parameter(3, 4), parameter(3, 4, seed=1)
    optimizer = LpSGD([w], p=1.3)
    with pytest.raises(error, match=message):
        optimizer.add_param_group({"params": [b], **group})
    assert len(optimizer.param_groups) == 1
    assert torch.equal(b, randn(3, 4, seed=1))


@pytest.mark.parametrize("shape", [(4,), (), (4, 1), (3, 1, 1)])
def test_a_tensor_without_rows_is_refused_and_points_to_param_groups(shape):
    with pytest.raises(ValueError, match=r"has no neurons of two weights or more.*lpsphere.param_groups\(model, p="):
        LpSGD([parameter(*shape)], p=1.2)


def test_complex_weights_are_refused():
    with pytest.raises(TypeError, match=r"must be real floating-point tensors, got torch\.complex64"):
        LpSGD([nn.Parameter(torch.randn(3, 4, dtype=torch.complex64))], p=1.2)


def test_a_missing_p_is_refused_with_both_remedies():
    for params in ([parameter(3, 4)], [{"params": [parameter(3, 4)]}]):
        with pytest.raises(ValueError, match=r"p is missing: pass LpSGD\(params, p=1.2\), or groups with a key 'p'"):
            LpSGD(params)


def test_a_parameter_given_twice_is_refused():
    w, b = parameter(3, 4), parameter(3, 4, seed=1)
    for params in ([w, w], [{"params": [w]}, {"params": [w]}], [{"params": [w]}, {"params": w}]):
        with pytest.raises(ValueError, match="a parameter is given twice: each must be in one group only"):
            LpSGD(params, p=1.2)
    optimizer = LpSGD([w], p=1.2)
    with pytest.raises(ValueError, match="given twice"):
        optimizer.add_param_group({"params": [b, w]})
    assert len(optimizer.param_groups) == 1


def test_what_is_no_list_of_parameters_is_refused():
    with pytest.raises(TypeError, match="params must be a list of parameters or groups, got one tensor"):
        LpSGD(parameter(3, 4), p=1.2)
    with pytest.raises(TypeError, match="ordered collections"):
        LpSGD([{"params": {parameter(3, 4)}}], p=1.2)
    with pytest.raises(TypeError, match="param_group must be a dict"):
        LpSGD([parameter(3, 4)], p=1.2).add_param_group([parameter(3, 4)])
    with pytest.raises(ValueError, match="empty parameter list"):
        LpSGD([], p=1.2)


@pytest.mark.parametrize("form", ["dual", "primal"])
@pytest.mark.parametrize("layout", [NeuronLayout(), NeuronLayout(1, 2)])
def test_a_new_mask_leaves_the_neurons_that_lose_nothing_as_they_are_to_the_last_bit(form, layout):
    param = torch.nn.Parameter(torch.randn(6, 8, 3, generator=torch.Generator().manual_seed(0)))
    group = {"params": [param], "p": 1.15, "neuron_dim": layout.neuron_dim, "neuron_groups": layout.groups}
    optimizer = LpSGD([group], lr=0.05, form=form)
    for step in range(20):
        param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(step))
        optimizer.step()
    rows = torch.ones(layout.neurons(param), layout.fan_in(param), dtype=torch.bool)
    rows[1, :3] = rows[3, 2] = False
    before = layout.to_rows(param.detach()).clone(), layout.to_rows(optimizer.state[param][form]).clone()
    optimizer.on_topology(param, layout.from_rows(rows, param))
    for old, new in zip(before, (param.detach(), optimizer.state[param][form]), strict=True):
        same = (layout.to_rows(new) == old).all(1)
        assert same.tolist() == [i not in (1, 3) for i in range(len(rows))]


@pytest.mark.parametrize("radius", [1.0, "init"])
@pytest.mark.parametrize("form", ["dual", "primal"])
def test_neurons_that_are_on_their_spheres_stay_as_they_are_to_the_last_bit(form, radius):
    param = nn.Parameter(torch.randn(6, 9))
    optimizer = LpSGD([param], p=1.15, lr=0.05, form=form, radius=radius)
    for _ in range(20):
        param.grad = torch.randn(6, 9)
        optimizer.step()
    restored = nn.Parameter(param.detach().clone())
    restored.data[3] *= 1.001
    LpSGD([restored], p=1.15, lr=0.05, form=form, radius=radius)
    others = [0, 1, 2, 4, 5]
    assert torch.equal(restored[others], param[others])
    if radius == 1.0:
        torch.testing.assert_close(restored[3], param[3])
        assert not torch.equal(restored[3], 1.001 * param[3])
