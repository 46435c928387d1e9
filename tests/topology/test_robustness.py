"""Every method beside other optimizers, mixed precision, clipping, broken gradients and frozen or shared layers."""

import itertools
import warnings

import pytest
import torch
from small_networks import (
    DYNAMIC,
    METHODS,
    OPTIMIZERS,
    UPDATES,
    Idle,
    assert_identical,
    assert_masked,
    backward,
    batch,
    copies,
    parts,
    perceptron,
    shaped_state,
    train,
)
from torch import nn

import lpsphere as lp

STEPS = 20
REFUSED = {"LBFGS", "SparseAdam"}
TRAINERS = {
    "Adadelta": {"lr": 1.0, "weight_decay": 1e-2},
    "Adafactor": {"lr": 0.01, "weight_decay": 1e-2},
    "Adagrad": {"lr": 0.01, "weight_decay": 1e-2},
    "Adagrad from 0.5": {"lr": 0.01, "weight_decay": 1e-2, "initial_accumulator_value": 0.5},
    "Adam": {"lr": 0.01, "weight_decay": 1e-2},
    "AdamW": {"lr": 0.01, "weight_decay": 1e-2},
    "Adamax": {"lr": 0.01, "weight_decay": 1e-2},
    "ASGD": {"lr": 0.05, "weight_decay": 1e-2, "lambd": 1e-2, "t0": 3},
    "Muon": {"lr": 0.02, "weight_decay": 1e-2},
    "NAdam": {"lr": 0.01, "weight_decay": 1e-2},
    "RAdam": {"lr": 0.01, "weight_decay": 1e-2},
    "RMSprop": {"lr": 0.01, "weight_decay": 1e-2},
    "RMSprop centered": {"lr": 0.01, "weight_decay": 1e-2, "centered": True, "momentum": 0.9},
    "Rprop": {"lr": 0.01},
    "SGD": {"lr": 0.05, "weight_decay": 1e-2, "momentum": 0.9, "nesterov": True},
}
TRAINERS = {name: settings for name, settings in TRAINERS.items() if hasattr(torch.optim, name.split()[0])}


def trainer(name, model):
    params = [param for param in model.parameters() if name != "Muon" or param.ndim == 2]
    return getattr(torch.optim, name.split()[0])(params, **TRAINERS[name])


def parameters(model):
    return {name: param.detach().clone() for name, param in model.named_parameters()}


# Optimizers.


def test_every_optimizer_of_torch_is_tried_here_or_refused():
    classes = {name for name, value in vars(torch.optim).items() if isinstance(value, type)} - {"Optimizer"}
    assert {name.split()[0] for name in TRAINERS} == classes - REFUSED


@pytest.mark.parametrize("method", ["set", "rigl", "semi_pruning"])
@pytest.mark.parametrize("name", TRAINERS)
def test_under_every_optimizer_zeros_stay_zero_and_new_connections_start_afresh_and_learn(name, method):
    model = perceptron()
    optimizer = trainer(name, model)
    topology = METHODS[method](model, optimizer)
    fresh = {"step_size": TRAINERS[name]["lr"], "sum": TRAINERS[name].get("initial_accumulator_value", 0.0)}
    learning = 0
    grown = {key: torch.zeros_like(mask) for key, mask in topology.masks.items()}
    for step in range(1, STEPS + 1):
        before = copies(topology.masks)
        train(model, optimizer, range(step - 1, step))
        assert_masked(model, topology)
        for key, mask in topology.masks.items():
            weight, changed = model.get_parameter(key), mask ^ before[key]
            with_gradient = grown[key] & (weight.grad != 0)
            assert (weight[with_gradient] != 0).all()
            learning += int(with_gradient.sum())
            for entry, value in shaped_state(optimizer, weight).items():
                assert (value[changed] == fresh.get(entry, 0.0)).all(), entry
                quiet = (value == fresh.get(entry, 0.0)) | ((value == 1e-8) & (entry == "exp_inf"))  # Adamax adds eps
                assert quiet[~mask].all(), entry
            grown[key] = mask & ~before[key]
    assert learning > 30
    assert [event.step for event in topology.events] == UPDATES[method]
    assert topology.connections == round(topology.weights * 0.3)


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_closure_changes_no_decision(method, optimizer_name):
    plain, closed = parts(method, optimizer_name), parts(method, optimizer_name)
    train(plain["model"], plain["optimizer"], range(STEPS))
    for step in range(STEPS):

        def closure(step=step):
            closed["optimizer"].zero_grad()
            return backward(closed["model"], step)

        assert closed["optimizer"].step(closure).item() > 0
    assert len(closed["topology"].events) == len(UPDATES[method])
    assert_identical(closed["topology"].state_dict(), plain["topology"].state_dict())
    assert_identical(closed["model"].state_dict(), plain["model"].state_dict())


@pytest.mark.parametrize("with_closure", [False, True])
@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_subclass_that_calls_the_step_of_its_base_takes_one_step(method, optimizer_name, with_closure):
    """torch then calls the hooks for both of them."""
    plain = parts(method, optimizer_name)
    train(plain["model"], plain["optimizer"], range(STEPS))
    base = type(plain["optimizer"])
    calls = []

    class Derived(base):
        def step(self, closure=None):
            return super().step(closure)

    model = perceptron()
    optimizer = OPTIMIZERS[optimizer_name](model)
    optimizer.__class__ = Derived
    optimizer._patch_step_function()
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    topology = METHODS[method](model, optimizer)
    for step in range(STEPS):

        def closure(step=step):
            optimizer.zero_grad()
            return backward(model, step)

        if with_closure:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    assert len(calls) == 2 * STEPS
    assert_identical(topology.state_dict(), plain["topology"].state_dict())
    assert_identical(model.state_dict(), plain["model"].state_dict())


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_attaching_after_dense_steps_clears_the_state_of_what_is_taken_away(method, optimizer_name):
    model = perceptron()
    optimizer = OPTIMIZERS[optimizer_name](model)
    train(model, optimizer, range(5))
    some = {} if method in ("static", "set", "rigl") else {"initial_sparsity": 0.4}
    topology = METHODS[method](model, optimizer, **some)
    assert topology.connections == round(topology.weights * (0.6 if some else 0.3))
    for name, mask in topology.masks.items():
        weight = model.get_parameter(name)
        assert (weight[~mask] == 0).all()
        assert len(shaped_state(optimizer, weight)) >= 1
        for key, value in shaped_state(optimizer, weight).items():
            assert (value[~mask] == 0).all(), key
            assert (value[mask] != 0).any(), key
    train(model, optimizer, range(5, 5 + STEPS))
    assert_masked(model, topology)
    assert [event.step for event in topology.events] == UPDATES[method]
    assert topology.connections == round(topology.weights * 0.3)


@pytest.mark.parametrize("method", METHODS)
def test_accumulated_gradients_make_one_step(method):
    def run(accumulate):
        model = perceptron().double()
        optimizer = OPTIMIZERS["sgd"](model)
        topology = METHODS[method](model, optimizer)
        for step in range(STEPS):
            optimizer.zero_grad()
            halves = (batch(2 * step), batch(2 * step + 1))
            losses = [nn.functional.cross_entropy(model(x.double()), y) for x, y in halves]
            for loss in losses if accumulate else [sum(losses)]:
                loss.backward()
            optimizer.step()
        return model, topology

    (model, topology), (expected, expected_topology) = run(True), run(False)
    assert [event.step for event in topology.events] == UPDATES[method]
    assert_identical(topology.masks, expected_topology.masks)
    for param, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(param, other, rtol=1e-9, atol=1e-12)


# Mixed precision and clipping.


def fused(name, model, is_fused):
    if name == "SGD":
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-3, fused=is_fused)
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.05, fused=is_fused)


def trained_in_mixed_precision(method, name, is_fused, *, scaled, clip=False, **changes):
    """With a loss scale that changes from step to step; three overflow and are then tried again."""
    model = perceptron()
    optimizer = fused(name, model, is_fused)
    topology = METHODS[method](model, optimizer, **changes)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6, growth_interval=1, enabled=scaled)
    scales = []

    def attempt(step, broken):
        optimizer.zero_grad()
        x, y = batch(step)
        scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
        if broken:
            model[3].weight.grad[0, 0] = torch.inf
        if clip:
            scaler.unscale_(optimizer)
            topology.mask_grads()
            nn.utils.clip_grad_norm_(model.parameters(), 0.2)
        scales.append(scaler.get_scale())
        scaler.step(optimizer)
        scaler.update()

    for step in range(STEPS):
        if scaled and step + 1 in (
            3,
            7,
            13,
        ):  # at updates; torch's fused SGD does not survive a first step that it skips
            before, masks, taken = parameters(model), copies(topology.masks), topology.state_dict()["step"]
            attempt(step, broken=True)
            assert_identical(parameters(model), before)
            assert_identical(copies(topology.masks), masks)
            assert topology.state_dict()["step"] == taken == step
        attempt(step, broken=False)
    assert scales[:3] == ([64.0, 128.0, 256.0] if scaled else [1.0] * 3)
    return {"model": parameters(model), "optimizer": optimizer.state_dict()["state"], "topology": topology.state_dict()}


@pytest.mark.parametrize("is_fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("method", METHODS)
def test_a_loss_scale_changes_nothing_and_steps_it_skips_do_not_count(method, name, is_fused):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled = trained_in_mixed_precision(method, name, is_fused, scaled=True)
    assert [event["step"] for event in scaled["topology"]["events"]] == UPDATES[method]
    assert_identical(scaled, trained_in_mixed_precision(method, name, is_fused, scaled=False))


@pytest.mark.parametrize("start", ["sparse", "dense"])
@pytest.mark.parametrize("is_fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("method", ["snip", "gmp", "semi_pruning"])
def test_gradients_masked_for_clipping_are_forgotten_with_a_step_that_is_skipped(method, is_fused, start):
    initial = 0.0 if start == "dense" else 0.3
    settings = {"clip": True, "initial_sparsity": initial}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled = trained_in_mixed_precision(method, "SGD", is_fused, scaled=True, **settings)
    assert [event["step"] for event in scaled["topology"]["events"]] == UPDATES[method]
    assert_identical(scaled, trained_in_mixed_precision(method, "SGD", is_fused, scaled=False, **settings))


@pytest.mark.parametrize("method", METHODS)
def test_autocast_to_bfloat16_reaches_the_target(method):
    things = parts(method, "adamw")
    model, optimizer, topology = things.values()
    for step in range(STEPS):
        x, y = batch(step)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(x)
            loss = nn.functional.cross_entropy(output, y)
        assert output.dtype == torch.bfloat16
        loss.backward()
        optimizer.step()
        assert_masked(model, topology)
    assert [event.step for event in topology.events] == UPDATES[method]
    assert topology.connections == round(topology.weights * 0.3)
    assert {param.dtype for param in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("method", ["rigl", "semi_pruning"])
def test_clipping_measures_what_exists_and_leaves_the_choice_of_new_connections_alone(method):
    """The twin clips by hand: the same factor on all gradients, those of connections that do not exist included."""
    things, twin = parts(method, "sgd"), parts(method, "sgd")
    for step in range(STEPS):
        for model, optimizer, _ in (things.values(), twin.values()):
            optimizer.zero_grad()
            backward(model, step)
        masks = things["topology"].masks
        dense = nn.utils.get_total_norm([param.grad for param in things["model"].parameters()])
        things["topology"].mask_grads()
        norm = nn.utils.clip_grad_norm_(things["model"].parameters(), 0.05)
        exist = [
            param.grad.masked_fill(~masks[name], 0) if name in masks else param.grad
            for name, param in twin["model"].named_parameters()
        ]
        assert torch.equal(norm, nn.utils.get_total_norm(exist))
        assert 0.05 < norm < dense
        for param in twin["model"].parameters():
            param.grad.mul_(0.05 / (norm + 1e-6))
        for thing in (things, twin):
            thing["optimizer"].step()
    assert sum(sum(event.regrown.values()) for event in things["topology"].events) > 30
    assert_identical(things["topology"].masks, twin["topology"].masks)
    assert_identical(parameters(things["model"]), parameters(twin["model"]))


# Gradients that are not finite.


class Careful(torch.optim.SGD):
    """Leaves its parameters alone where a gradient is not finite, as many training loops do."""

    def step(self, closure=None):
        params = [param for group in self.param_groups for param in group["params"] if param.grad is not None]
        if all(bool(param.grad.isfinite().all()) for param in params):
            super().step()


def with_a_broken_gradient(method, value, place, **changes):
    """The run until its first update, at which a gradient is broken; then one more step."""
    model = perceptron()
    optimizer = Careful(model.parameters(), lr=0.05)
    topology = METHODS[method](model, optimizer, **changes)
    due = UPDATES[method][0] if UPDATES[method] else 4
    train(model, optimizer, range(due - 1))
    masks, before = copies(topology.masks), parameters(model)
    optimizer.zero_grad()
    backward(model, due - 1)
    entries = model[3].weight_mask == (place == "exists")
    model[3].weight.grad[tuple(entries.nonzero()[0])] = value
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.step()
    same = all(torch.equal(masks[name], mask) for name, mask in topology.masks.items())
    still = all(torch.equal(before[name], value) for name, value in parameters(model).items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, range(due, STEPS))
    return topology, due, caught, same, still


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("method", DYNAMIC)
def test_an_update_whose_gradients_are_not_finite_is_made_up_for_at_the_next_good_step(method, value):
    topology, due, caught, same, still = with_a_broken_gradient(method, value, "exists")
    assert [warning.category for warning in caught] == [lp.LpSphereWarning]
    assert f"gradients of step {due} are not finite" in str(caught[0].message)
    assert same
    assert still
    assert [event.step for event in topology.events] == [due + 1, *UPDATES[method][1:]]
    assert topology.connections == round(topology.weights * 0.3)


def test_a_row_of_steps_with_broken_gradients_is_told_once():
    model = perceptron()
    optimizer = Careful(model.parameters(), lr=0.05)
    topology = lp.RigL(model, optimizer, sparsity=0.7, every=1, total_steps=20)
    warned = []
    for step in range(8):
        optimizer.zero_grad()
        backward(model, step)
        if step in (2, 3, 4, 6):
            model[3].weight.grad.fill_(torch.nan)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.step()
        warned += [step] * len(caught)
    assert warned == [2, 6]
    assert len(topology.events) == 4


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("method", METHODS)
def test_a_gradient_that_is_broken_where_nothing_exists_matters_only_to_methods_that_look_there(method, value):
    some = {} if method in ("static", "set", "rigl") else {"initial_sparsity": 0.3}
    topology, due, caught, same, still = with_a_broken_gradient(method, value, "does not exist", **some)
    looks = method in ("rigl", "snip", "semi_pruning")
    assert [warning.category for warning in caught] == ([lp.LpSphereWarning] if looks else [])
    assert same or method == "set"  # GMP starts to drop at its second update
    assert still == (method in ("rigl", "snip"))
    assert [event.step for event in topology.events] == ([due + 1, *UPDATES[method][1:]] if looks else UPDATES[method])
    assert topology.connections == round(topology.weights * 0.3)


# Frozen, shared and unused layers.


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_is_frozen_half_way_is_left_alone_unless_the_target_asks_for_its_connections(
    method, optimizer_name
):
    things = parts(method, optimizer_name)
    model, optimizer, topology = things.values()
    train(model, optimizer, range(8))
    model[0].weight.requires_grad_(False)
    mask, weight = model[0].weight_mask.clone(), model[0].weight.detach().clone()
    other = model[3].weight_mask.clone()
    train(model, optimizer, range(8, STEPS))
    assert model[0].weight.grad is None
    assert_masked(model, topology)
    assert [event.step for event in topology.events] == UPDATES[method]
    assert topology.connections == round(topology.weights * 0.3)
    prunes = method in ("gmp", "semi_pruning")
    assert torch.equal(model[0].weight_mask, mask) == (not prunes)
    assert (model[0].weight_mask & ~mask).sum() == 0  # without a gradient nothing grows
    if not prunes:
        assert torch.equal(model[0].weight, weight)
    elif optimizer_name != "lpsgd":
        assert torch.equal(model[0].weight, weight * model[0].weight_mask)
    assert torch.equal(model[3].weight_mask, other) == (method in ("static", "snip"))


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_is_unfrozen_half_way_trains_on_densely(method, optimizer_name):
    model = perceptron()
    model[0].weight.requires_grad_(False)
    optimizer = OPTIMIZERS[optimizer_name](model)
    topology = METHODS[method](model, optimizer)
    weight = model[0].weight.detach().clone()
    train(model, optimizer, range(8))
    assert torch.equal(model[0].weight, weight)
    model[0].weight.requires_grad_(True)
    train(model, optimizer, range(8, STEPS))
    assert list(topology.masks) == ["3.weight"]
    assert (model[0].weight != weight).double().mean() > 0.9
    assert (model[0].weight != 0).all()
    assert topology.connections == round(16 * 14 * 0.3)


class Recurring(nn.Module):
    """One layer under two names, run three times."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(12, 12)
        self.second = self.first
        self.norm = nn.BatchNorm1d(12)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.norm(self.second(self.first(self.first(x).relu()).relu())))


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_is_registered_and_run_several_times_has_one_mask(method, optimizer_name):
    model = Recurring()
    optimizer = OPTIMIZERS[optimizer_name](model)
    topology = METHODS[method](model, optimizer)
    train(model, optimizer, range(STEPS))
    assert list(topology.masks) == ["first.weight"]
    assert [event.step for event in topology.events] == UPDATES[method]
    assert topology.connections == round(144 * 0.3)
    assert_masked(model, topology)
    twin = Recurring(seed=4)
    other = METHODS[method](twin, OPTIMIZERS[optimizer_name](twin), seed=4)
    twin.load_state_dict(model.state_dict())
    assert_identical(other.masks, topology.masks)
    topology.finalize()
    assert list(model.state_dict()) == list(Recurring().state_dict())


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_never_receives_a_gradient_never_grows(method, optimizer_name):
    model = Idle()
    optimizer = OPTIMIZERS[optimizer_name](model)
    topology = METHODS[method](model, optimizer)
    mask = model.idle.weight_mask.clone()
    train(model, optimizer, range(STEPS))
    assert model.idle.weight.grad is None
    assert [event.step for event in topology.events] == UPDATES[method]
    assert topology.connections == round(topology.weights * 0.3)
    assert_masked(model, topology)
    assert not (model.idle.weight_mask & ~mask).any()
    assert torch.equal(model.idle.weight_mask, mask) == (method in ("static", "set", "rigl"))
    if method == "snip":  # its connections do not matter to the loss
        assert not model.idle.weight_mask.any()


# A second method.


@pytest.mark.parametrize("optimizer_name", ["lpsgd", "sgd"])
@pytest.mark.parametrize(("method", "second"), list(itertools.product(METHODS, METHODS)))
def test_a_second_method_is_refused_until_the_first_has_ended(method, second, optimizer_name):
    things = parts(method, optimizer_name)
    model, optimizer, topology = things.values()
    words = rf"a {type(topology).__name__} is attached to this model and optimizer already: finalize\(\)"
    for initial in ({}, {"initial_sparsity": "keep"}):
        with pytest.raises(ValueError, match=words):
            METHODS[second](model, optimizer, **initial)
    train(model, optimizer, range(STEPS))
    assert topology.state_dict()["step"] == STEPS  # once a step
    masks = copies(topology.masks)
    topology.detach()
    with pytest.raises(ValueError, match=r"the model has masks already: finalize\(\) the method that made them"):
        METHODS[second](model, OPTIMIZERS["sgd"](model))
    other = METHODS[second](model, optimizer, initial_sparsity="keep")
    assert_identical(other.masks, masks)
    topology.detach()  # a second time: it must not reach what follows
    with torch.no_grad():
        model[0].weight.add_(1)
    train(model, optimizer, range(1))
    assert_masked(model, other)
    assert topology.state_dict()["step"] == STEPS
    assert other.state_dict()["step"] == 1


@pytest.mark.parametrize("method", METHODS)
def test_finalizing_a_second_time_does_not_end_the_method_that_follows(method):
    things = parts(method, "sgd")
    model, optimizer, topology = things.values()
    train(model, optimizer, range(STEPS))
    assert topology.finalize() is topology.finalize() is model
    topology.detach()
    second = lp.GMP(model, optimizer, sparsity=0.8, total_steps=STEPS, initial_sparsity="keep")
    topology.finalize()
    train(model, optimizer, range(STEPS))
    assert second.connections == round(second.weights * 0.2)


@pytest.mark.parametrize("optimizer_name", ["lpsgd", "sgd"])
def test_a_detached_method_cannot_be_finalized_while_another_holds_its_masks(optimizer_name):
    model = perceptron()
    optimizer = OPTIMIZERS[optimizer_name](model)
    first = lp.RigL(model, optimizer, sparsity=0.5, total_steps=STEPS)
    first.detach()
    second = lp.GMP(model, optimizer, sparsity=0.8, total_steps=STEPS, initial_sparsity="keep")
    with pytest.raises(ValueError, match="a GMP is attached to this model and optimizer already"):
        first.finalize()
    train(model, optimizer, range(STEPS))
    assert second.connections == round(second.weights * 0.2)
