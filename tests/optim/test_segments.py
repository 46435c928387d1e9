"""LpSGD on the values of sparse layers, whose neurons are segments of different lengths."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import lpsphere as lp
from lpsphere.geometry import Segments, lp_norm
from lpsphere.optim import lpsgd
from lpsphere.optim.reference import ReferenceLpSGD
from lpsphere.sparse import SparseLinear

MOMENTA = {
    "no momentum": {},
    "plain": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.5},
    "Nesterov": {"momentum": 0.9, "nesterov": True},
    "maximize": {"momentum": 0.9, "maximize": True},
}
SHAPE = (9, 14)


def a_mask(shape=SHAPE):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4
    mask[0] = False  # a dead neuron
    mask[1] = torch.arange(shape[1]) == 3  # one connection
    return mask


def networks(dtype, seed=0):
    """A network with a sparse layer, and the same with a dense one; and the mask."""
    torch.manual_seed(seed)
    dense = nn.Sequential(nn.Linear(14, 9), nn.BatchNorm1d(9), nn.Linear(9, 2)).to(dtype)
    sparse = copy.deepcopy(dense)
    sparse[0] = SparseLinear.from_dense(dense[0], a_mask())
    return sparse, dense, a_mask()


def optimizer_of(model, p=1.2, radius=1.0, **settings):
    return lp.LpSGD(lp.param_groups(model, p, lr=0.05, other_lr=0.1, radius=radius), **settings)


def set_gradients(model, generator, mask):
    """Random gradients; the same for a dense and a sparse layer."""
    for param in model.parameters():
        sparse = param is model[0].weight and param.ndim == 1
        shape = mask.shape if sparse else param.shape
        gradient = torch.randn(shape, generator=generator, dtype=torch.float64).to(param.dtype)
        param.grad = gradient[mask] if sparse else gradient


def train(model, optimizer, steps, seed=2):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        set_gradients(model, generator, a_mask())
        optimizer.step()


def dense_weight(model):
    return model[0].to_dense().weight.detach().double().numpy()


def power(w, p):
    """J_p(w) where w has infinite slope in v at 0."""
    return np.sign(w) * np.abs(w) ** (p - 1) if p > 2 else w


@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("p", [1.05, 1.3, 2, 4])
@pytest.mark.parametrize("radius", [2.5, "init"])
@pytest.mark.parametrize(
    ("dtype", "form", "compiled"),
    [
        (torch.float64, "dual", True),
        (torch.float64, "primal", True),
        (torch.float32, "dual", True),
        (torch.float32, "dual", False),
        (torch.float32, "primal", False),
    ],
)
def test_fifty_steps_are_those_of_the_twin(dtype, form, compiled, radius, p, momentum):
    model, dense, mask = networks(dtype)
    optimizer = optimizer_of(model, p, radius, form=form, foreach=None if compiled else False, **MOMENTA[momentum])
    settings = {"mu" if k == "momentum" else k: v for k, v in MOMENTA[momentum].items() if k != "maximize"}
    start = (dense[0].weight.detach() * mask).double().numpy()
    twin = ReferenceLpSGD(
        start, p, 0.05, r=None if radius == "init" else radius, form=form, mask=mask.numpy(), **settings
    )
    radii = np.array([r or 1.0 for r in twin.r])[:, None]
    generator = torch.Generator().manual_seed(3)
    for step in range(50):
        gradient = torch.randn(SHAPE, generator=generator, dtype=torch.float64).to(dtype)
        model[0].weight.grad = gradient[mask]
        optimizer.step()
        twin.step((-gradient if momentum == "maximize" else gradient).double().numpy())
        if step in (0, 1, 49):
            found, expected = power(dense_weight(model) / radii, p), power(twin.w / radii, p)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 if dtype == torch.float64 else 1e-5)
    state = optimizer.state[model[0].weight]
    assert {value.shape for key, value in state.items() if key in (form, "momentum_buffer")} == {model[0].weight.shape}


@pytest.mark.parametrize("compiled", [False, True])
def test_float32_values_take_compiled_steps_however_few_they_are(monkeypatch, compiled):
    taken = []
    monkeypatch.setattr(lpsgd, "WORTH_COMPILING", 10**9)
    monkeypatch.setattr(lpsgd, "compiled_steps", lambda weights, **_: taken.extend(one.param.shape for one in weights))
    model, _, _ = networks(torch.float32)
    train(model, optimizer_of(model, foreach=None if compiled else False), 1)
    assert taken == ([model[0].weight.shape] if compiled else [])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_values_keep_float32_state(dtype):
    model, _, _ = networks(dtype)
    optimizer = optimizer_of(model, momentum=0.9)
    train(model, optimizer, 3)
    state = optimizer.state[model[0].weight]
    assert state["dual"].dtype == state["momentum_buffer"].dtype == torch.float32
    norms = lp_norm(model[0].weight.detach().double(), 1.2, dim=Segments(model[0].row_pointers))
    torch.testing.assert_close(norms[1:], torch.ones(8, dtype=torch.float64), rtol=0, atol=0.02)


@pytest.mark.parametrize("compiled", [False, True])
def test_nan_stays_within_its_neuron(compiled):
    model, _, mask = networks(torch.float32)
    optimizer = optimizer_of(model, momentum=0.9, foreach=None if compiled else False)
    set_gradients(model, torch.Generator().manual_seed(0), mask)
    model[0].weight.grad[int(model[0].row_pointers[4])] = torch.nan
    optimizer.step()
    hit = torch.zeros_like(mask)
    hit[4] = mask[4]
    assert torch.equal(torch.from_numpy(dense_weight(model)).isnan(), hit)


def test_a_changed_p_moves_values_as_it_moves_masked_weights():
    sparse, dense, mask = networks(torch.float64)
    optimizers = [optimizer_of(model, momentum=0.9) for model in (sparse, dense)]
    optimizers[1].on_topology(dense[0].weight, mask)
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    for step in range(6):
        for model, optimizer, generator in zip((sparse, dense), optimizers, generators, strict=True):
            optimizer.param_groups[0]["p"] = 1.2 + 0.1 * step
            set_gradients(model, generator, mask)
            optimizer.step()
    np.testing.assert_allclose(dense_weight(sparse), dense[0].weight.detach().numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("radius", [1.0, "init"])
@pytest.mark.parametrize("form", ["dual", "primal"])
def test_neurons_that_others_have_changed_return_to_their_spheres_and_the_others_stay(form, radius):
    model, _, _ = networks(torch.float64)
    optimizer = optimizer_of(model, radius=radius, form=form)
    before = model[0].weight.detach().clone()
    start, stop = model[0].row_pointers[3:5].tolist()
    with torch.no_grad():
        model[0].weight[start:stop] *= -2
    optimizer.zero_grad()
    optimizer.step()
    before[start:stop] *= -1
    torch.testing.assert_close(model[0].weight.detach(), before, rtol=0, atol=1e-14)
    before[start:stop] = model[0].weight.detach()[start:stop]
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("radius", [1.0, "init"])
def test_a_layer_that_was_given_other_connections_by_hand_starts_anew(radius):
    model, _, _ = networks(torch.float64)
    optimizer = optimizer_of(model, radius=radius, momentum=0.9)
    train(model, optimizer, 2)
    values = torch.randn(20, dtype=torch.float64)
    model[0].set_structure(torch.arange(20) % 9, torch.arange(20) % 14, values)
    model[0].weight.grad = torch.ones(20, dtype=torch.float64)
    optimizer.step()
    norms = lp_norm(model[0].weight.detach(), 1.2, dim=Segments(model[0].row_pointers))
    assert optimizer.state[model[0].weight]["momentum_buffer"].shape == (20,)
    expected = optimizer.state[model[0].weight]["radius"].flatten() if radius == "init" else torch.ones(9).double()
    torch.testing.assert_close(norms, expected)
    assert (norms > 0).all()


def through_a_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("first", ["model", "optimizer"])
def test_a_run_continues_bit_for_bit_whichever_is_loaded_first(dtype, first):
    model, _, _ = networks(dtype)
    optimizer = optimizer_of(model, radius="init", momentum=0.9)
    train(model, optimizer, 5)
    states = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    resumed, _, _ = networks(dtype, seed=5)
    resumed[0].set_structure(torch.arange(9), torch.arange(9), torch.ones(9))  # another structure, replaced
    other = optimizer_of(resumed, radius="init", momentum=0.9)
    for name in ("model", "optimizer") if first == "model" else ("optimizer", "model"):
        (resumed if name == "model" else other).load_state_dict(states[name])
    for pair in ((model, optimizer), (resumed, other)):
        train(*pair, 5, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_a_copy_of_model_and_optimizer_continues_by_its_own_structure(duplicate):
    model, _, _ = networks(torch.float32)
    optimizer = optimizer_of(model, radius="init", momentum=0.9)
    train(model, optimizer, 3)
    twin, other = duplicate((model, optimizer))
    model[0].row_pointers.zero_()  # the copy has its own
    for _ in range(2):
        twin[0].weight.grad = torch.ones_like(twin[0].weight)
        other.step()
    norms = lp_norm(twin[0].weight.detach(), 1.2, dim=Segments(twin[0].row_pointers))
    torch.testing.assert_close(norms, other.state[twin[0].weight]["radius"].flatten(), rtol=1e-5, atol=1e-6)


def test_a_group_can_be_given_to_several_optimizers():
    model, _, _ = networks(torch.float32)
    groups = lp.param_groups(model, 1.2, lr=0.05, other_lr=0.1)
    for _ in range(2):
        optimizer = lp.LpSGD(groups)
        assert "layouts" not in optimizer.param_groups[0]
        train(model, optimizer, 1)


def test_values_without_their_layer_are_refused():
    model, _, _ = networks(torch.float32)
    with pytest.raises(ValueError, match=r"has no neurons of two weights or more .*param_groups"):
        lp.LpSGD([model[0].weight], p=1.2)
    layout = SparseLinear(14, 9, sparsity=0.5).neuron_rows("weight")
    with pytest.raises(ValueError, match=r"layouts names a layer of 63 connections for a tensor of shape"):
        lp.LpSGD([{"params": [model[0].weight], "layouts": [layout], "p": 1.2}])


def test_hoyer_is_controlled_on_values_as_on_masked_weights():
    sparse, dense, mask = networks(torch.float64)
    optimizers = [optimizer_of(model) for model in (sparse, dense)]
    optimizers[1].on_topology(dense[0].weight, mask)
    controls = [lp.HoyerControl(optimizer, 0.6, every=2) for optimizer in optimizers]
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    for _ in range(8):
        for model, optimizer, generator in zip((sparse, dense), optimizers, generators, strict=True):
            set_gradients(model, generator, mask)
            optimizer.step()
    ours, theirs = (control.layers[0] for control in controls)
    assert ours.measured == pytest.approx(theirs.measured, abs=1e-12)
    assert ours.fan_in == pytest.approx(theirs.fan_in)
    assert optimizers[0].param_groups[0]["p"] == pytest.approx(optimizers[1].param_groups[0]["p"], rel=1e-12)
