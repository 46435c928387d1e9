import copy
import itertools

import pytest
import torch
from small_networks import OPTIMIZERS, assert_identical, convolutions, perceptron, saved, semi_pruning, train

import lpsphere as lp

STEPS = 20
SETTINGS = {
    "exact": {},
    "grow_init": {"grow_init": 0.5, "min_fan_in": 2},
    "paper": {"adaptation": "paper", "drop_fraction": 0.5},
}


def parts(optimizer_name, seed, network=perceptron, **settings):
    model = network(seed)
    optimizer = OPTIMIZERS[optimizer_name](model)
    return {"model": model, "optimizer": optimizer, "topology": semi_pruning(model, optimizer, seed=seed, **settings)}


@pytest.fixture(scope="module")
def uninterrupted():
    """Final states, and the states along the way, by optimizer and settings."""
    runs = {}
    for optimizer_name, settings_name in itertools.product(OPTIMIZERS, SETTINGS):
        things = parts(optimizer_name, 0, **SETTINGS[settings_name])
        states = [saved(things)]
        for step in range(STEPS):
            train(things["model"], things["optimizer"], range(step, step + 1))
            states.append(saved(things))
        runs[optimizer_name, settings_name] = states
    return runs


# Updates follow steps 4, 7, 10, 13 and 16.
@pytest.mark.parametrize("step", [0, 2, 3, 4, 8, 13, 18])
@pytest.mark.parametrize("order", list(itertools.permutations(["model", "optimizer", "topology"])), ids="-".join)
@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_a_resumed_training_is_the_uninterrupted_one_bit_by_bit(uninterrupted, optimizer_name, order, step):
    resume_and_compare(uninterrupted, optimizer_name, "exact", order, step)


@pytest.mark.parametrize("step", [2, 8, 11])
@pytest.mark.parametrize("settings_name", ["grow_init", "paper"])
@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_the_settings_are_resumed_with_the_state(uninterrupted, optimizer_name, settings_name, step):
    resume_and_compare(uninterrupted, optimizer_name, settings_name, ("topology", "model", "optimizer"), step)


def resume_and_compare(uninterrupted, optimizer_name, settings_name, order, step):
    states = uninterrupted[optimizer_name, settings_name]
    things = parts(optimizer_name, seed=5, sparsity=0.6, initial_sparsity=0.1)  # all of it replaced by the state
    train(things["model"], things["optimizer"], range(50, 52))  # as are steps that were taken
    for name in order:
        things[name].load_state_dict(copy.deepcopy(states[step][name]))  # optimizers keep the tensors
    train(things["model"], things["optimizer"], range(step, STEPS))
    assert len(things["topology"].events) == 5
    assert_identical(saved(things), states[STEPS])


def test_the_uninterrupted_runs_differ_with_the_settings(uninterrupted):
    ends = [uninterrupted["lpsgd", name][STEPS]["topology"]["events"] for name in SETTINGS]
    assert ends[0] != ends[1] != ends[2] != ends[0]


def test_an_update_that_was_put_off_is_resumed(uninterrupted):
    things = parts("sgd", 0)
    train(things["model"], things["optimizer"], range(3))
    for layer in (things["model"][0], things["model"][3]):
        layer.weight.grad = torch.full_like(layer.weight, torch.nan)
        layer.weight.grad[layer.weight_mask] = 0
    with pytest.warns(lp.LpSphereWarning, match="step 4"):
        things["optimizer"].step()
    fresh = parts("sgd", 5)
    for name, state in saved(things).items():
        fresh[name].load_state_dict(state)
    train(fresh["model"], fresh["optimizer"], range(4, 5))
    assert [event.step for event in fresh["topology"].events] == [5]


def test_after_loading_the_masks_of_the_state_hold_at_once_and_state_outside_them_is_cleared_at_the_next_step():
    old, things = parts("sgd", 0), parts("sgd", 5)
    train(old["model"], old["optimizer"], range(3))
    train(things["model"], things["optimizer"], range(3))
    things["topology"].load_state_dict(saved(old)["topology"])  # not the optimizer: its momentum has other masks
    for name, mask in old["topology"].masks.items():
        assert torch.equal(things["topology"].masks[name], mask)
    train(things["model"], things["optimizer"], range(3, 4))
    for name, mask in things["topology"].masks.items():
        weight = dict(things["model"].named_parameters())[name]
        assert (weight[~mask] == 0).all()
        assert (things["optimizer"].state[weight]["momentum_buffer"][~mask] == 0).all()


def test_the_state_is_a_copy():
    things = parts("lpsgd", 0)
    state = things["topology"].state_dict()
    before = {name: mask.clone() for name, mask in state["masks"].items()}
    train(things["model"], things["optimizer"], range(STEPS))
    assert_identical(state["masks"], before)
    assert not state["events"]


def test_another_methods_state_is_refused():
    topology = parts("sgd", 0)["topology"]
    with pytest.raises(ValueError, match="the saved topology is RigL's, this is SemiPruning: build the same"):
        topology.load_state_dict({**topology.state_dict(), "method": "RigL"})


def test_a_state_that_is_no_topologys_is_refused():
    things = parts("sgd", 0)
    with pytest.raises(ValueError, match=r"give it what its own state_dict\(\) returned"):
        things["topology"].load_state_dict(things["model"].state_dict())


def test_another_networks_state_is_refused_and_changes_nothing():
    topology, other = parts("sgd", 0)["topology"], parts("sgd", 0, network=convolutions)["topology"]
    before = topology.state_dict()
    with pytest.raises(ValueError, match=r"another network or selection; they differ in .*0\.weight"):
        topology.load_state_dict(other.state_dict())
    assert_identical(topology.state_dict(), before)


def test_a_checkpoint_is_loaded_although_the_masks_were_moved_since_the_method_was_attached():
    """As wrappers do that replace buffers."""
    expected, moved = parts("lpsgd", 0), parts("lpsgd", 0)
    train(expected["model"], expected["optimizer"], range(STEPS))
    states = saved(expected)
    for module in moved["model"].modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.clone()
    for name, thing in moved.items():
        thing.load_state_dict(states[name])
    for things in (expected, moved):
        train(things["model"], things["optimizer"], range(STEPS, STEPS + 2))
    assert_identical(moved["model"].state_dict(), expected["model"].state_dict())
