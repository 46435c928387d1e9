import copy
import io
import math
import warnings

import pytest
import torch
from small_networks import Attention, adamw, batch, convolutions, lpsgd, perceptron, semi_pruning, sgd, train
from torch import nn

import lpsphere as lp

STEPS = 20


# Masks are buffers.


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (perceptron, ["0.weight_mask", "3.weight_mask"]),
        (convolutions, ["1.weight_mask", "4.weight_mask", "7.weight_mask"]),
        (Attention, ["attend.in_proj_weight_mask", "attend.out_proj.weight_mask"]),
    ],
)
def test_masks_are_persistent_bool_buffers_beside_their_weights(network, names):
    model = network()
    topology = semi_pruning(model, sgd(model))
    buffers = {name: buffer for name, buffer in model.named_buffers() if name.endswith("_mask")}
    assert list(buffers) == names
    assert list(topology.masks) == [name.removesuffix("_mask") for name in names]
    for name, buffer in buffers.items():
        assert buffer.dtype == torch.bool
        assert buffer.shape == model.get_parameter(name.removesuffix("_mask")).shape
        assert torch.equal(model.state_dict()[name], buffer)
        assert topology.masks[name.removesuffix("_mask")] is buffer


def test_a_copy_of_the_model_has_masks_of_its_own():
    model = perceptron()
    topology = semi_pruning(model, sgd(model))
    twin = copy.deepcopy(model)
    before = twin[0].weight_mask.clone()
    train(model, topology.optimizer, range(STEPS))
    assert torch.equal(twin[0].weight_mask, before)
    assert not torch.equal(model[0].weight_mask, before)
    x, _ = batch(0)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.eval()(x), model.eval()(x))


def test_the_initial_mask_is_at_the_initial_sparsity_and_depends_on_the_seed_alone():
    topologies = []
    for seed, torch_seed in ((3, 0), (3, 1), (4, 0)):
        model = perceptron()
        optimizer = sgd(model)
        torch.manual_seed(torch_seed)
        state = torch.get_rng_state()
        topologies.append(semi_pruning(model, optimizer, seed=seed, initial_sparsity=0.5))
        assert torch.equal(torch.get_rng_state(), state)
    first, same, other = (topology.masks for topology in topologies)
    assert topologies[0].connections == round(topologies[0].weights * 0.5)
    assert topologies[0].weights == 12 * 16 + 16 * 14
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_erk_shapes_the_initial_mask():
    model = perceptron(sizes=(12, 40, 20, 3))
    topology = semi_pruning(model, sgd(model), distribution="erk", initial_sparsity=0.7)
    narrow, wide = (int(mask.sum()) for mask in topology.masks.values())
    assert narrow + wide == round(0.3 * (12 * 40 + 40 * 20))
    assert narrow / wide == pytest.approx((12 + 40) / (40 + 20), rel=0.01)


# The end.


@pytest.mark.parametrize("make", [lpsgd, sgd, adamw])
def test_finalize_leaves_a_plain_module_whose_zeros_stay_zero(make):
    model = perceptron()
    plain_keys = list(model.state_dict())
    optimizer = make(model)
    topology = semi_pruning(model, optimizer)
    train(model, optimizer, range(STEPS))
    masks = {name: mask.clone() for name, mask in topology.masks.items()}
    outputs = model.eval()(batch(0)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert topology.finalize() is model
        assert topology.finalize() is model  # twice is harmless
    assert list(model.state_dict()) == plain_keys
    assert torch.equal(model(batch(0)[0]), outputs)
    for name, mask in masks.items():
        assert torch.equal(model.get_parameter(name) != 0, mask)
    perceptron(seed=9).load_state_dict(model.state_dict())
    buffer = io.BytesIO()
    torch.save(model, buffer)  # no hooks, nothing that cannot be pickled
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not optimizer._optimizer_load_state_dict_post_hooks


def test_finalize_masks_weights_that_another_hand_has_changed():
    model = perceptron()
    topology = semi_pruning(model, sgd(model), initial_sparsity=0.7)
    masks = {name: mask.clone() for name, mask in topology.masks.items()}
    with torch.no_grad():
        model[0].weight.fill_(1)
    topology.finalize()
    assert torch.equal(model[0].weight != 0, masks["0.weight"])


def test_finalize_before_the_end_warns_with_the_step_that_is_missing():
    model = perceptron()
    optimizer = sgd(model)
    topology = semi_pruning(model, optimizer)
    train(model, optimizer, range(10))
    sparsity = topology.sparsity
    with pytest.warns(
        lp.LpSphereWarning,
        match=rf"10 steps at sparsity {sparsity:.4f}, not at the target 0\.7: the last update is due after step 16",
    ):
        topology.finalize()


def test_finalize_warns_when_paper_adaptation_has_missed_the_target():
    model = perceptron()
    optimizer = sgd(model)
    topology = semi_pruning(model, optimizer, adaptation="paper")
    train(model, optimizer, range(STEPS))
    assert topology.sparsity < 0.69
    with pytest.warns(lp.LpSphereWarning, match=r"not at the target 0\.7: the last update was after step 16"):
        topology.finalize()


def test_after_finalize_the_masks_are_gone_and_asking_for_them_says_so():
    model = perceptron()
    topology = semi_pruning(model, sgd(model), initial_sparsity=0.7)
    topology.finalize()
    with pytest.raises(RuntimeError, match=r"0\.weight has no mask: the method was finalized"):
        _ = topology.masks
    assert topology.sparsity == 1 - topology.connections / topology.weights == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize("make", [lpsgd, sgd])
def test_detach_leaves_the_masks_but_no_longer_enforces_them(make):
    model = perceptron()
    optimizer = make(model)
    topology = semi_pruning(model, optimizer)
    train(model, optimizer, range(5))
    topology.detach()
    topology.detach()  # twice is harmless
    mask = model[0].weight_mask.clone()
    train(model, optimizer, range(5, STEPS))
    assert torch.equal(model[0].weight_mask, mask)
    assert len(topology.events) == 1
    assert (model[0].weight[~mask] != 0).any()


# A second method.


@pytest.mark.parametrize("initial", [0.2, "keep"])
def test_attaching_twice_is_refused_and_harms_nothing(initial):
    model = perceptron()
    optimizer = lpsgd(model)
    topology = semi_pruning(model, optimizer)
    with pytest.raises(
        ValueError, match=r"a SemiPruning is attached to this model and optimizer already: finalize\(\)"
    ):
        semi_pruning(model, optimizer, initial_sparsity=initial)
    train(model, optimizer, range(STEPS))
    assert topology.state_dict()["step"] == STEPS
    assert topology.connections == round(topology.weights * 0.3)


def test_masks_that_are_left_are_refused_unless_they_are_kept():
    model = perceptron()
    semi_pruning(model, sgd(model)).detach()
    with pytest.raises(ValueError, match=r'the model has masks already: .* initial_sparsity="keep"'):
        semi_pruning(model, sgd(model))


def test_methods_of_different_layers_share_an_optimizer():
    model = perceptron()
    optimizer = sgd(model)
    first = semi_pruning(model, optimizer, sparsity=0.5, rules=[lp.Rule("0", sparse=False)])
    second = semi_pruning(model, optimizer, sparsity=0.8, rules=[lp.Rule("3", sparse=False)])
    train(model, optimizer, range(STEPS))
    assert list(first.masks) == ["3.weight"]
    assert list(second.masks) == ["0.weight"]
    assert first.connections == round(16 * 14 * 0.5)
    assert second.connections == round(12 * 16 * 0.2)


@pytest.mark.parametrize("make", [lpsgd, sgd])
def test_keep_continues_from_the_masks_of_a_detached_method(make):
    model = perceptron()
    optimizer = make(model)
    first = semi_pruning(model, optimizer, sparsity=0.5)
    train(model, optimizer, range(STEPS))
    first.detach()
    masks = {name: mask.clone() for name, mask in first.masks.items()}
    second = semi_pruning(model, optimizer, sparsity=0.8, initial_sparsity="keep")
    assert second.initial_sparsity == first.sparsity == 0.5
    assert all(torch.equal(masks[name], mask) for name, mask in second.masks.items())
    train(model, optimizer, range(STEPS))
    assert second.connections == round(second.weights * 0.2)
    assert second.events[0].sparsity == 0.5
    assert len(first.events) == len(second.events) == 5


def test_keep_continues_from_the_zeros_of_a_finalized_model():
    model = perceptron()
    first = semi_pruning(model, lpsgd(model), sparsity=0.5)
    train(model, first.optimizer, range(STEPS))
    masks = {name: mask.clone() for name, mask in first.masks.items()}
    first.finalize()
    optimizer = lpsgd(model)
    second = semi_pruning(model, optimizer, sparsity=0.8, initial_sparsity="keep")
    assert all(torch.equal(masks[name], mask) for name, mask in second.masks.items())
    train(model, optimizer, range(STEPS))
    assert second.connections == round(second.weights * 0.2)


def test_keep_of_a_dense_model_starts_dense_and_so_does_zero():
    for initial in ("keep", 0, 0.0):
        model = perceptron()
        weights = model[0].weight.detach().clone()
        topology = semi_pruning(model, sgd(model), initial_sparsity=initial)
        assert topology.sparsity == 0
        assert torch.equal(model[0].weight, weights)


def test_keep_above_the_target_is_refused():
    model = perceptron()
    with torch.no_grad():
        model[0].weight.zero_()
    sparsity = 12 * 16 / (12 * 16 + 16 * 14)
    with pytest.raises(ValueError, match=rf'"keep" starts at {sparsity:.4f}, above the target 0\.4: raise sparsity'):
        semi_pruning(model, sgd(model), sparsity=0.4, initial_sparsity="keep")
    assert not hasattr(model[0], "weight_mask")


# Selection.


def test_a_rule_with_sparse_false_leaves_a_layer_dense():
    model = perceptron()
    optimizer = sgd(model)
    topology = semi_pruning(model, optimizer, rules=[lp.Rule("0", sparse=False)])
    train(model, optimizer, range(STEPS))
    assert list(topology.masks) == ["3.weight"]
    assert topology.weights == 16 * 14
    assert topology.connections == round(16 * 14 * 0.3)
    assert (model[0].weight != 0).all()


def test_include_last_masks_the_output_layer_too():
    model = perceptron()
    optimizer = sgd(model)
    topology = semi_pruning(model, optimizer, include_last=True)
    train(model, optimizer, range(STEPS))
    assert list(topology.masks) == ["0.weight", "3.weight", "6.weight"]
    assert topology.connections == round((12 * 16 + 16 * 14 + 14 * 3) * 0.3)


def test_layers_left_to_plain_sgd_are_masked_beside_those_on_spheres():
    model = perceptron()
    rules = [lp.Rule("3", p=None)]
    optimizer = lp.LpSGD(
        lp.param_groups(model, p=1.2, lr=0.03, other_lr=0.1, rules=rules, weight_decay=1e-2), momentum=0.9
    )
    topology = semi_pruning(model, optimizer, rules=rules)
    train(model, optimizer, range(STEPS))
    assert topology.connections == round(topology.weights * 0.3)
    for name, mask in topology.masks.items():
        assert (model.get_parameter(name)[~mask] == 0).all()
        assert (optimizer.state[model.get_parameter(name)]["momentum_buffer"][~mask] == 0).all()


def test_a_weight_that_two_layers_share_has_one_mask():
    model = nn.Sequential(
        nn.Linear(12, 12), nn.BatchNorm1d(12), nn.Linear(12, 12), nn.BatchNorm1d(12), nn.Linear(12, 3)
    )
    model[2].weight = model[0].weight
    optimizer = lpsgd(model)
    topology = semi_pruning(model, optimizer)
    train(model, optimizer, range(STEPS))
    assert list(topology.masks) == ["0.weight"]
    assert topology.connections == round(144 * 0.3)
    assert torch.equal(model[2].weight != 0, model[0].weight_mask)


def test_a_wrapped_optimizer_is_unwrapped():
    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer

        def step(self):
            self.optimizer.step()

    model = perceptron()
    optimizer = sgd(model)
    topology = semi_pruning(model, Wrapper(Wrapper(optimizer)))
    assert topology.optimizer is optimizer
    train(model, optimizer, range(STEPS))
    assert topology.connections == round(topology.weights * 0.3)


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sparsity": 1.0}, ValueError, r"sparsity must be in \[0, 1\): the fraction of connections .*; got 1\.0"),
        ({"sparsity": -0.1}, ValueError, r"sparsity must be in \[0, 1\).* got -0\.1"),
        ({"sparsity": math.nan}, ValueError, r"sparsity must be in \[0, 1\).* got nan"),
        ({"sparsity": "0.9"}, TypeError, r"sparsity must be a number in \[0, 1\), got '0\.9'"),
        ({"sparsity": True}, TypeError, r"sparsity must be a number in \[0, 1\), got True"),
        ({"initial_sparsity": 1.5}, ValueError, r"initial_sparsity must be in \[0, 1\).* got 1\.5"),
        (
            {"initial_sparsity": "kept"},
            TypeError,
            r"initial_sparsity must be a number in \[0, 1\) or \"keep\", got 'kept'",
        ),
        ({"total_steps": 0}, ValueError, "total_steps must be a whole number of at least 1, got 0"),
        ({"begin": 0.9}, ValueError, r"0 <= begin <= end <= 1; got 0\.9, 0\.8"),
        ({"every": 0}, ValueError, "every must be a whole number of steps, at least 1, or None; got 0"),
        ({"regrow": "a"}, TypeError, r"regrow must be a number in \[0, 1\], got 'a'"),
        ({"regrow": 1.1}, ValueError, r"regrow must be in \[0, 1\], got 1\.1"),
        ({"drop_fraction": -1}, ValueError, r"drop_fraction must be in \[0, 1\], got -1"),
        ({"grow_init": -0.5}, ValueError, r"grow_init must be at least 0 and finite, got -0\.5"),
        ({"grow_init": math.nan}, ValueError, "grow_init must be at least 0 and finite, got nan"),
        ({"grow_init": math.inf}, ValueError, "grow_init must be at least 0 and finite, got inf"),
        ({"min_fan_in": -1}, ValueError, "min_fan_in must be a whole number of at least 0, got -1"),
        ({"min_fan_in": 1.0}, ValueError, r"min_fan_in must be a whole number of at least 0, got 1\.0"),
        ({"min_fan_in": True}, ValueError, "min_fan_in must be a whole number of at least 0, got True"),
        ({"adaptation": "exactly"}, ValueError, 'adaptation must be "exact" or "paper", got \'exactly\''),
        ({"distribution": "er"}, ValueError, 'distribution must be "uniform" or "erk", got \'er\''),
        (
            {"distribution": "er", "initial_sparsity": "keep"},
            ValueError,
            'distribution must be "uniform" or "erk", got \'er\'',
        ),
        ({"rules": [lp.Rule("nowhere")]}, ValueError, "matches nothing"),
        ({"rules": [lp.Rule("*", sparse=False)]}, ValueError, "no layer is left to make sparse: every selected weight"),
        (
            {"sparsity": 0.9, "min_fan_in": 4},
            ValueError,
            r"sparsity 0\.9 leaves 42 of 416 connections, but 120 are needed so that each neuron keeps 4: the largest "
            r"feasible sparsity is 0\.7115\. Choose that or less, or min_fan_in=0",
        ),
    ],
)
def test_a_wrong_argument_is_refused_with_its_value_and_leaves_the_model_alone(arguments, error, message):
    model = perceptron()
    optimizer = sgd(model)
    keys, weights = list(model.state_dict()), model[0].weight.detach().clone()
    with pytest.raises(error, match=message):
        semi_pruning(model, optimizer, **arguments)
    assert list(model.state_dict()) == keys
    assert torch.equal(model[0].weight, weights)
    assert not optimizer._optimizer_step_pre_hooks


def test_an_optimizer_that_lacks_a_weight_is_refused():
    model = perceptron()
    optimizer = torch.optim.SGD([model[0].weight, model[6].weight], lr=0.1)
    with pytest.raises(
        ValueError, match=r"the optimizer does not have 3\.weight: build it from the same model, or leave"
    ):
        semi_pruning(model, optimizer)


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match="expected a torch optimizer, got Sequential"):
        semi_pruning(perceptron(), perceptron())
