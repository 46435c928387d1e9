"""What every method promises, whatever the optimizer and the type of the layers."""

import copy
import itertools
import warnings

import pytest
import torch
from small_networks import (
    LAYERS,
    METHODS,
    OPTIMIZERS,
    UPDATES,
    assert_identical,
    assert_masked,
    batch,
    copies,
    parts,
    saved,
    shaped_state,
    train,
)

from lpsphere.geometry import lp_norm
from lpsphere.neurons import select

STEPS = 20
CASES = list(itertools.product(METHODS, OPTIMIZERS, LAYERS))
REPLACED = {"rigl": UPDATES["rigl"], "snip": [1, 2, 3]}  # steps at which no weight follows its gradient
ORDERS = list(itertools.permutations(["model", "optimizer", "topology"]))


def assert_on_spheres(model, optimizer, before, start):
    """Every neuron with a weight other than 0 is; only one whose connections are all new may wait for its gradient."""
    groups = {id(param): group for group in optimizer.param_groups for param in group["params"]}
    for neuron in select(model):
        rows = neuron.layout.to_rows(neuron.weight.detach().double())
        radius = optimizer.state[neuron.weight]["radius"].flatten().double()
        norms = lp_norm(rows, groups[id(neuron.weight)]["p"])
        mask = getattr(neuron.module, f"{neuron.attribute}_mask")
        stayed = neuron.layout.to_rows(mask & before[neuron.name]).any(1)
        moved = neuron.layout.to_rows(start[neuron.name]).any(1)
        alive = (norms > 0) | (stayed & moved)
        assert alive.any()
        torch.testing.assert_close(norms[alive], radius[alive], rtol=1e-5, atol=0)


def assert_reset(model, optimizer, topology, before):
    """Connections that do not exist, and those that have just changed, have no history."""
    for name, mask in topology.masks.items():
        weight, changed = model.get_parameter(name), mask ^ before[name]
        assert (weight[changed] == 0).all(), name
        for key, value in shaped_state(optimizer, weight).items():
            assert (value[~mask | changed] == 0).all(), (name, key)


def assert_conserved(topology, event, before):
    for name, mask in topology.masks.items():
        assert event.dropped[name] == int((before[name] & ~mask).sum())
        assert event.regrown[name] == int((mask & ~before[name]).sum())
        assert int(before[name].sum()) + event.regrown[name] - event.dropped[name] == int(mask.sum())
    assert event.sparsity == topology.sparsity


def assert_moved(model, before, start, topology, *, replaced, on_spheres):
    """Every step trains what exists, but for steps that an update replaces: there nothing moves, biases included."""
    for neuron in select(model):
        mask = topology.masks[neuron.name]
        weight = neuron.weight.detach()
        both = mask & before[neuron.name]
        if not replaced:
            assert not torch.equal(weight[both], start[neuron.name][both])
            continue
        if on_spheres:  # neurons that have lost or gained a connection return to theirs
            same = neuron.layout.to_rows(mask == before[neuron.name]).all(1)
            rows, old = neuron.layout.to_rows(weight), neuron.layout.to_rows(start[neuron.name])
            torch.testing.assert_close(rows[same], old[same], rtol=1e-5, atol=0)
        else:
            assert torch.equal(weight[both], start[neuron.name][both])
    name, last_bias = list(model.named_parameters())[-1]
    assert torch.equal(last_bias, start[name]) == replaced


@pytest.mark.parametrize(("method", "optimizer_name", "layer"), CASES)
def test_every_step_keeps_the_contract_and_the_end_is_a_plain_model_at_the_target(method, optimizer_name, layer):
    things = parts(method, optimizer_name, network=layer)
    model, optimizer, topology = things.values()
    changes = 0
    for step in range(1, STEPS + 1):
        before = copies(topology.masks)
        start = {name: param.detach().clone() for name, param in model.named_parameters()}
        train(model, optimizer, range(step - 1, step))
        assert_masked(model, topology)
        assert_reset(model, optimizer, topology, before)
        if optimizer_name == "lpsgd":
            assert_on_spheres(model, optimizer, before, start)
        if step in UPDATES[method]:
            assert topology.events[-1].step == step
            assert_conserved(topology, topology.events[-1], before)
            changes += sum(topology.events[-1].dropped.values())
        else:
            assert all(torch.equal(before[name], mask) for name, mask in topology.masks.items())
        replaced = step in REPLACED.get(method, ())
        assert_moved(model, before, start, topology, replaced=replaced, on_spheres=optimizer_name == "lpsgd")
    assert [event.step for event in topology.events] == UPDATES[method]
    assert (changes > 0) == (method != "static")
    assert topology.connections == round(topology.weights * 0.3)
    assert all(len(shaped_state(optimizer, model.get_parameter(name))) >= 1 for name in topology.masks)
    masks, outputs = copies(topology.masks), model.eval()(batch(0)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert topology.finalize() is model
    plain = LAYERS[layer](seed=9)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain.eval()(batch(0)[0]), outputs)
    for name, mask in masks.items():
        assert (plain.get_parameter(name)[~mask] == 0).all()
        assert (plain.get_parameter(name)[mask] != 0).double().mean() > 0.9


@pytest.mark.parametrize(
    ("method", "optimizer_name", "layer", "step", "order"),
    [(*case, 7 * i % STEPS, ORDERS[i % 6]) for i, case in enumerate(CASES)],
)
def test_a_resumed_training_is_the_uninterrupted_one_bit_by_bit(method, optimizer_name, layer, step, order):
    things = parts(method, optimizer_name, network=layer)
    train(things["model"], things["optimizer"], range(step))
    states = saved(things)
    train(things["model"], things["optimizer"], range(step, STEPS))
    others = parts(
        method, optimizer_name, seed=5, network=layer, sparsity=0.5, total_steps=50
    )  # all of it replaced by the state
    train(others["model"], others["optimizer"], range(50, 52))  # as are steps that were taken
    for name in order:
        others[name].load_state_dict(copy.deepcopy(states[name]))
    train(others["model"], others["optimizer"], range(step, STEPS))
    assert len(others["topology"].events) == len(UPDATES[method])
    assert_identical(saved(others), saved(things))
