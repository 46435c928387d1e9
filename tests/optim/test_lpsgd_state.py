"""LpSGD continues exactly: state_dict, deepcopy, pickle."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from lpsphere import LpSGD, param_groups

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def network(dtype, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(30, 8),
        nn.BatchNorm1d(8),
        nn.ConvTranspose1d(8, 6, 3, groups=2),
        nn.BatchNorm1d(6),
        nn.Linear(6, 3),
    ).to(dtype)


def build(dtype, *, seed=0, p=1.2, radius=1.0, **kwargs):
    model = network(dtype, seed)
    groups = param_groups(model, p, lr=0.05, other_lr=0.1, radius=radius, weight_decay=0.01)
    return model, LpSGD(groups, momentum=0.9, **kwargs)


def train(model, optimizer, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for param in model.parameters():
            param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        optimizer.step()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def through_a_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first", ["model", "optimizer"])
@pytest.mark.parametrize("form", ["dual", "primal"])
@pytest.mark.parametrize(("p", "radius"), [(1.05, "init"), (1.2, 1.0), (3.0, 2.5)])
def test_a_run_continues_bit_for_bit_whichever_is_loaded_first(dtype, first, form, p, radius):
    model, optimizer = build(dtype, p=p, radius=radius, form=form, nesterov=True)
    train(model, optimizer, 10, seed=1)
    saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    resumed, other = build(dtype, seed=5, p=p, radius=radius, form=form, nesterov=True)
    assert not same(model, resumed)
    for what in ("model", "optimizer") if first == "model" else ("optimizer", "model"):
        (resumed if what == "model" else other).load_state_dict(saved[what])
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        for key, value in optimizer.state[a].items():
            loaded = other.state[b][key]
            if isinstance(value, torch.Tensor):
                assert loaded.dtype == value.dtype
                assert torch.equal(loaded, value)
            else:
                assert loaded == value
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    state = other.state[resumed[0].weight]
    assert {state[key].dtype for key in (form, "momentum_buffer")} == {wide}
    train(model, optimizer, 20, seed=2)
    train(resumed, other, 20, seed=2)
    assert same(model, resumed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_loading_does_not_share_memory_with_the_saved_state(dtype):
    model, optimizer = build(dtype)
    train(model, optimizer, 2, seed=1)
    saved = copy.deepcopy(optimizer.state_dict())
    resumed, other = build(dtype)
    other.load_state_dict(saved)
    before = copy.deepcopy(saved["state"])
    train(resumed, other, 2, seed=3)
    for identifier, entries in before.items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(saved["state"][identifier][key], value)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_a_copy_of_model_and_optimizer_continues_as_the_original(duplicate, dtype, masked):
    model, optimizer = build(dtype, radius="init")
    train(model, optimizer, 5, seed=1)
    mask = torch.randn(8, 30, generator=torch.Generator().manual_seed(3)) > 0
    if masked:
        optimizer.on_topology(model[0].weight, mask)
    twin, other = duplicate((model, optimizer))
    assert twin[0].weight is other.param_groups[0]["params"][0]
    assert twin[0].weight is not model[0].weight
    train(model, optimizer, 10, seed=2)
    train(twin, other, 10, seed=2)
    assert same(model, twin)
    if masked:
        assert (twin[0].weight[~mask] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_move_by_less_than_their_own_precision(dtype):
    """Steps too small for the weight's dtype add up in the float32 state."""
    w = nn.Parameter(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)).to(dtype))
    optimizer = LpSGD([w], p=2.0, lr=1e-5)
    before = w.detach().clone()
    w.grad = torch.randn(2, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    optimizer.step()
    assert torch.equal(w, before)
    for _ in range(2000):
        optimizer.step()
    assert (w != before).any(1).all()


def test_groups_that_do_not_fit_are_refused():
    _, optimizer = build(torch.float32)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        LpSGD([nn.Parameter(torch.randn(3, 4))], p=1.2).load_state_dict(optimizer.state_dict())
