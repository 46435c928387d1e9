import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import lpsphere as lp
from lpsphere.topology.schedules import cubic

STEPS = 60


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32)
    return (x - x.mean(0)) / (x.std(0) + 0.1), torch.tensor(data.target)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(),
        nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU(),
        nn.Linear(128, 10),
    )  # fmt: skip


def trained(digits, p, on_step=None, **settings):
    x, y = digits
    model = network()
    optimizer = lp.LpSGD(lp.param_groups(model, p=p, lr=0.02, other_lr=0.2), momentum=0.9, nesterov=True)
    topology = lp.SemiPruning(model, optimizer, total_steps=STEPS, **settings)
    for step in range(STEPS):
        rows = torch.arange(step * 96, (step + 1) * 96) % len(x)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        before = copy.deepcopy(topology.masks)
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, model, topology, before)
    return model, topology


@pytest.mark.parametrize("target", [0.5, 0.8, 0.9, 0.95, 0.98])
@pytest.mark.parametrize("p", [1.05, 1.1, 1.2, 1.5, 2.0])
def test_the_target_is_met_exactly_for_every_p(digits, p, target):
    model, topology = trained(digits, p, sparsity=target)
    connections = round((64 * 128 + 128 * 128) * (1 - target))
    assert topology.connections == sum(int(mask.sum()) for mask in topology.masks.values()) == connections
    for layer in (model[0], model[3]):
        assert (layer.weight[~layer.weight_mask] == 0).all()
        assert layer.weight_mask.any(1).all()
    table = lp.summary(model, topology.optimizer)
    assert table.connections == connections
    assert table.sparsity == topology.sparsity
    model.eval()
    accuracy = (model(digits[0]).argmax(1) == digits[1]).double().mean()
    assert accuracy > (0.9 if target < 0.98 else 0.7)


def test_an_infeasible_target_is_refused_with_the_largest_that_is_feasible(digits):
    with pytest.raises(ValueError, match=r"sparsity 0.99 leaves 246 of 24,576 .* 256 are needed .* is 0\.9895"):
        trained(digits, 1.2, sparsity=0.99)
    model, topology = trained(digits, 1.2, sparsity=0.9895)
    assert topology.connections == round(24576 * (1 - 0.9895))
    assert model[0].weight_mask.any(1).all()
    model, topology = trained(digits, 1.2, sparsity=0.99, min_fan_in=0)
    assert topology.connections == 246


@pytest.mark.parametrize("distribution", ["uniform", "erk"])
@pytest.mark.parametrize("min_fan_in", [1, 7])
def test_every_update_ends_at_the_scheduled_sparsity_and_conserves_counts(digits, distribution, min_fan_in):
    seen = []

    def on_step(step, model, topology, before):
        after = topology.masks
        if not topology.events or topology.events[-1].step != step:
            assert all(torch.equal(before[name], after[name]) for name in after)
            return
        event = topology.events[-1]
        progress = min(1.0, (step - 12) / (48 - 12))
        assert topology.connections == round(24576 * (1 - cubic(topology.initial_sparsity, 0.9, progress)))
        assert event.sparsity == topology.sparsity
        for name, mask in after.items():
            dropped, grown = before[name] & ~mask, mask & ~before[name]
            assert event.dropped[name] == int(dropped.sum())
            assert event.regrown[name] == int(grown.sum())
            assert int(before[name].sum()) + event.regrown[name] - event.dropped[name] == int(mask.sum())
            assert int(mask.sum(1).min()) >= min_fan_in
        assert (event.threshold > 0) == any(event.dropped.values())
        seen.append(event)

    _, topology = trained(digits, 1.2, on_step, sparsity=0.9, distribution=distribution, min_fan_in=min_fan_in, every=5)
    assert [event.step for event in seen] == [12, 17, 22, 27, 32, 37, 42, 47, 48]
    assert seen == topology.events
    assert [event.sparsity for event in seen] == sorted(event.sparsity for event in seen)
    assert sum(sum(event.regrown.values()) for event in seen) > 1000
    assert sum(seen[-1].regrown.values()) == 0
    densities = [float(mask.double().mean()) for mask in topology.masks.values()]
    assert abs(densities[0] - densities[1]) > 0.005  # each layer finds its own


def test_the_threshold_is_the_largest_relative_magnitude_dropped():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10), nn.Linear(10, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    topology = lp.SemiPruning(model, optimizer, sparsity=0.6, total_steps=10, every=1, include_last=True)
    thresholds = []
    for step in range(1, 11):
        relative, before = [], copy.deepcopy(topology.masks)
        for layer, mask in zip(model, before.values(), strict=True):
            means = layer.weight.detach().abs().sum(1, keepdim=True) / mask.sum(1, keepdim=True)
            relative.append(layer.weight.detach().abs() / means)
            layer.weight.grad = torch.randn_like(layer.weight)
        optimizer.step()
        pairs = zip(relative, before.values(), topology.masks.values(), strict=True)
        dropped = torch.cat([size[old & ~new] for size, old, new in pairs])
        if len(dropped):
            assert topology.events[-1].step == step
            assert topology.events[-1].threshold == pytest.approx(float(dropped.max()))
            thresholds.append(topology.events[-1].threshold)
    assert len([threshold for threshold in thresholds if threshold > 0]) == 4  # later ones drop what was just grown


def test_threshold_is_zero_when_nothing_is_dropped():
    model = nn.Sequential(nn.Linear(12, 10), nn.Linear(10, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    topology = lp.SemiPruning(model, optimizer, sparsity=0.5, initial_sparsity=0.5, regrow=0, total_steps=1)
    model(torch.randn(4, 12)).square().sum().backward()
    optimizer.step()
    assert [(event.threshold, event.dropped, event.regrown) for event in topology.events] == [
        (0.0, {"0.weight": 0}, {"0.weight": 0})
    ]


@pytest.mark.parametrize("p", [1.1, 2.0])
def test_paper_adaptation_conserves_counts_and_never_leaves_a_dead_neuron(digits, p):
    def on_step(step, model, topology, before):
        for name, mask in topology.masks.items():
            assert mask.any(1).all()
            if topology.events and topology.events[-1].step == step:
                event = topology.events[-1]
                assert int(before[name].sum()) + event.regrown[name] - event.dropped[name] == int(mask.sum())

    _, topology = trained(digits, p, on_step, sparsity=0.95, adaptation="paper")
    assert len(topology.events) == 37
    assert topology.sparsity > topology.initial_sparsity
    assert sum(topology.events[-1].dropped.values()) == 0  # the threshold has come down to 0


def test_an_initial_sparsity_above_the_target_is_capped(digits):
    _, topology = trained(digits, 1.2, sparsity=0.5, initial_sparsity=0.8)
    assert topology.initial_sparsity == 0.5
    assert {event.sparsity for event in topology.events} == {0.5}
