import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import Rows, copies, still

import lpsphere as lp
from lpsphere.geometry import dual
from lpsphere.topology import Pool

# Relative magnitudes of the connections (weight over the mean of the neuron's connections):
#   a  1.5  .375  -    1.125        b  1
#      .5   -     1    1.5             -    .5   1.5
A = [[4.0, -1.0, 0.0, 3.0], [0.1, 0.0, -0.2, 0.3]]
B = [[5.0, 0.0, 0.0], [0.0, 1.0, -3.0]]
# Scaled to unit root mean square, where no connection is:
#   a  -  -    1.73  -              b  -  1.64 .55
#      -  .23  -     -                 1  -    -
A_GRADIENT = [[1.0, 1.0, -3.0, 1.0], [100.0, 20.0, 100.0, 100.0]]
B_GRADIENT = [[0.0, 0.03, -0.01], [2.0, 2.0, 2.0]]


def attach(model, optimizer=None, **changes):
    settings = {
        "sparsity": 0.6,
        "total_steps": 10,
        "initial_sparsity": "keep",
        "begin": 0.1,
        "end": 0.9,
        "every": 2,
        "include_last": True,
    }
    return lp.SemiPruning(model, optimizer or still(model), **{**settings, **changes})


def by_hand(**changes):
    model = Rows(A, B)
    topology = attach(model, **changes)
    model.set_gradients(A_GRADIENT, B_GRADIENT)
    topology.optimizer.step()
    return model, topology


def masks(topology):
    return [mask.int().tolist() for mask in topology.masks.values()]


def test_attaching_with_keep_makes_a_connection_of_every_weight_that_is_not_zero():
    topology = attach(Rows(A, B))
    assert masks(topology) == [[[1, 1, 0, 1], [1, 0, 1, 1]], [[1, 0, 0], [0, 1, 1]]]
    assert topology.connections == 9
    assert topology.weights == 14
    assert topology.sparsity == topology.initial_sparsity == 1 - 9 / 14


def test_the_smallest_relative_magnitudes_are_dropped_and_the_largest_scaled_gradients_grown():
    model, topology = by_hand(regrow=0.25)  # round(.25 * 9) = 2 grown; the sparsity has not begun to climb: 2 dropped
    # .375 and .5 go; of the two at .5 the one of the first layer, although .1 is not the smallest |w| of the network.
    # 1.73 and 1.64 come, the largest |g| of the inactive does not, and neither does what has just been dropped.
    assert masks(topology) == [[[1, 0, 1, 1], [0, 0, 1, 1]], [[1, 1, 0], [0, 1, 1]]]
    assert model.a.weight.tolist() == torch.tensor([[4.0, 0.0, 0.0, 3.0], [0.0, 0.0, -0.2, 0.3]]).tolist()
    assert model.b.weight.tolist() == [[5.0, 0.0, 0.0], [0.0, 1.0, -3.0]]
    (event,) = topology.events
    assert event.step == 1
    assert event.sparsity == 1 - 9 / 14
    assert event.threshold == pytest.approx(0.5)
    assert event.dropped == {"a.weight": 2, "b.weight": 0}
    assert event.regrown == {"a.weight": 1, "b.weight": 1}


def test_gradients_are_scaled_to_unit_root_mean_square_not_to_unit_norm():
    _, topology = by_hand(regrow=0.11)  # one: of unit norm 1.64 / sqrt(3) would win over 1.73 / sqrt(4)
    assert topology.events[0].regrown == {"a.weight": 1, "b.weight": 0}
    assert topology.masks["a.weight"][0, 2]


def test_the_largest_connections_of_each_neuron_are_never_dropped():
    # Protected: 1.5 and 1.125, 1.5 and 1, the only one of b's first neuron, 1.5 and .5 of its second.
    _, topology = by_hand(regrow=0.25, min_fan_in=2, sparsity=0.4)
    assert topology.events[0].dropped == {"a.weight": 1, "b.weight": 0}  # F = 8: no more than one can be exchanged
    assert masks(topology)[0] == [[1, 0, 1, 1], [1, 0, 1, 1]]


def test_at_the_end_nothing_is_grown_and_the_target_is_met():
    model = Rows(A, B)
    topology = attach(model, begin=0.1, end=0.1)
    model.set_gradients(A_GRADIENT, B_GRADIENT)
    topology.optimizer.step()
    # round(14 * .4) = 6 stay: .375, .5 and .5 go.
    assert masks(topology) == [[[1, 0, 0, 1], [0, 0, 1, 1]], [[1, 0, 0], [0, 0, 1]]]
    assert topology.events[0].dropped == {"a.weight": 2, "b.weight": 1}
    assert topology.events[0].regrown == {"a.weight": 0, "b.weight": 0}


def test_between_updates_the_masks_stay():
    _, topology = by_hand(regrow=0.25)
    before = copies(topology.masks)
    topology.optimizer.step()
    assert len(topology.events) == 1
    assert all(torch.equal(before[name], mask) for name, mask in topology.masks.items())


def test_a_neuron_whose_gradient_is_zero_has_nothing_to_offer():
    model = Rows(A, B)
    topology = attach(model, regrow=0.25)
    model.set_gradients([[0.0] * 4] * 2, [[0.0, 1e-30, 0.0], [0.0, 0.0, 0.0]])
    topology.optimizer.step()
    assert topology.masks["b.weight"].int().tolist()[0] == [1, 1, 0]
    assert topology.events[0].regrown == {"a.weight": 1, "b.weight": 1}  # the other by index, of those that score 0


def test_callbacks_are_called_with_the_event_after_the_update():
    model = Rows(A, B)
    topology = attach(model, regrow=0.25)
    seen = []
    topology.on_update(lambda event: seen.append((event, topology.masks["a.weight"].int().tolist())))
    model.set_gradients(A_GRADIENT, B_GRADIENT)
    topology.optimizer.step()
    topology.optimizer.step()
    assert seen == [(topology.events[0], [[1, 0, 1, 1], [0, 0, 1, 1]])]


# Counts.


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_counts_are_those_of_the_method_and_feasible_in_every_state(data):
    neurons, fan_in = data.draw(st.integers(1, 8)), data.draw(st.integers(2, 12))
    min_fan_in = data.draw(st.integers(0, 3))
    weights, fewest = neurons * fan_in, neurons * min(min_fan_in, fan_in)
    sparsity = data.draw(st.floats(0, max(0.0, (weights - fewest) / weights - 0.01)))
    model = Rows([[1.0] * fan_in] * neurons)
    topology = attach(
        model,
        sparsity=sparsity,
        initial_sparsity=data.draw(st.floats(0, 0.99)),
        regrow=data.draw(st.floats(0, 1)),
        min_fan_in=min_fan_in,
    )
    active = data.draw(st.integers(0, weights))  # any state, also those that training cannot reach
    mask = torch.zeros(weights, dtype=torch.bool)
    mask[torch.randperm(weights, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))[:active]] = (
        True
    )
    topology.masks["a.weight"].copy_(mask.view(neurons, fan_in))
    progress = data.draw(st.floats(0, 1))
    candidates = int((mask.view(neurons, fan_in).sum(1) - min(min_fan_in, fan_in)).clamp(min=0).sum())

    pool = Pool(weights, active, fewest, start=active, goal=round(weights * (1 - sparsity)))
    dropped, grown = topology.budget(progress, pool, torch.ones(candidates))

    scheduled = sparsity + (topology.initial_sparsity - sparsity) * (1 - progress) ** 3
    left = max(round(weights * (1 - scheduled)), fewest)
    regrow = topology.regrow * (1 + math.cos(math.pi * progress)) / 2
    assert grown == max(0, left - active, min(round(regrow * active), weights - active, left - fewest))
    assert active + grown - dropped == left
    assert 0 <= grown <= weights - active
    assert 0 <= dropped <= candidates


# Where new connections start.


def test_new_connections_start_at_zero_by_default_on_spheres_too():
    model, topology = with_spheres(grow_init=0.0)
    assert model.a.weight[0, 2] == 0
    assert topology.masks["a.weight"][0, 2]


def with_spheres(grow_init, form="dual"):
    model = Rows(A, B, dtype=torch.float64)
    groups = [{"params": list(model.parameters()), "p": 1.5, "radius": 2.0, "form": form}]
    optimizer = lp.LpSGD(groups, lr=0.0, momentum=0.9)
    topology = attach(model, optimizer, regrow=0.11, grow_init=grow_init)
    model.set_gradients(A_GRADIENT, B_GRADIENT)
    optimizer.step()
    return model, topology


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_new_connections_start_against_the_gradient_at_a_share_of_the_mean_dual_weight(form):
    model, topology = with_spheres(grow_init=0.5, form=form)
    # Dropped: a's .375; what remains of the neuron is 4 and 3, and the third entry has gradient -3.
    v = torch.tensor([4.0, 0.0, 0.0, 3.0], dtype=torch.float64) ** 0.5
    v /= (4.0**1.5 + 1.0**1.5 + 3.0**1.5) ** (1 / 3)  # on the unit sphere before the drop: |v|^q = |w|^p, q = 3
    v[2] = 0.5 * (v[0] + v[3]) / 2
    v /= (v**3).sum() ** (1 / 3)
    torch.testing.assert_close(model.a.weight[0].detach(), 2 * v**2, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        topology.optimizer.state[model.a.weight][form][0], v if form == "dual" else v**2, rtol=1e-12, atol=0
    )


def test_off_the_spheres_they_start_at_a_share_of_the_mean_weight():
    model, _ = by_hand(regrow=0.25, grow_init=0.5)
    assert model.a.weight[0].tolist() == [4.0, 0.0, 0.5 * 3.5, 3.0]  # gradient -3
    assert model.b.weight[0].tolist() == [5.0, -0.5 * 5, 0.0]  # gradient .03
    assert model.b.weight[1].tolist() == [0.0, 1.0, -3.0]


# Adaptation "paper".


def test_paper_adaptation_moves_threshold_and_regrowth_as_the_method_says():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(20, 30, generator=generator, dtype=torch.float64)
    model = Rows(weights.tolist())
    topology = attach(
        model,
        sparsity=0.6,
        initial_sparsity=0.3,
        total_steps=10,
        begin=0.1,
        end=1.0,
        every=3,
        adaptation="paper",
        drop_fraction=0.3,
    )
    gradient = torch.randn(20, 30, generator=generator)
    rho, mask = 0.95, topology.masks["a.weight"].clone().numpy()
    for step in range(1, 11):
        model.a.weight.grad = gradient.clone()
        magnitude = model.a.weight.detach().abs().double().numpy()
        topology.optimizer.step()
        if step not in (1, 4, 7, 10):
            continue
        tau = 0.3 * (1 + math.cos(math.pi * (step - 1) / 9)) / 2
        dropped = 0
        for row, active in zip(magnitude, mask, strict=True):
            relative = row[active] / row[active].mean()
            dropped += int((np.sort(relative)[:-1] < tau).sum())  # the largest is protected
        grown = round(rho * dropped)
        sparsity = 1 - (mask.sum() - dropped + grown) / 600
        rho = (0.9 if sparsity < 0.6 * (1 - tau / 2) else 1.1) * sparsity / 0.6
        event = topology.events[-1]
        assert event.step == step
        assert event.dropped == {"a.weight": dropped}
        assert event.regrown == {"a.weight": grown}
        assert event.sparsity == pytest.approx(sparsity)
        assert event.threshold < tau or dropped == 0
        assert topology.state_dict()["rho"] == pytest.approx(rho)
        mask = topology.masks["a.weight"].clone().numpy()
    assert [event.dropped["a.weight"] > 0 for event in topology.events] == [True, True, True, False]


def test_paper_adaptation_regrows_more_than_it_drops_when_it_is_past_the_target():
    model = Rows(torch.randn(20, 30, generator=torch.Generator().manual_seed(0)).tolist())
    topology = attach(model, sparsity=0.3, initial_sparsity=0.3, adaptation="paper", drop_fraction=0.3)
    model.a.weight.grad = torch.randn(20, 30, generator=torch.Generator().manual_seed(1))
    topology.optimizer.step()
    first = topology.events[0]
    assert first.sparsity > 0.3 * (1 - 0.3 / 2)
    assert topology.state_dict()["rho"] == pytest.approx(1.1 * first.sparsity / 0.3)
    topology.optimizer.step()
    topology.optimizer.step()
    second = topology.events[1]
    assert second.regrown["a.weight"] > second.dropped["a.weight"] > 0
    assert second.sparsity < first.sparsity


# What the dual weights are compared with.


def test_relative_magnitudes_are_of_weights_not_of_dual_weights():
    model = Rows([[4.0, 1.0, 1.0], [3.0, 2.9, 0.5]], dtype=torch.float64)
    optimizer = lp.LpSGD([{"params": list(model.parameters()), "p": 1.5}], lr=0.0)
    topology = attach(model, optimizer, sparsity=0.1, begin=0.1, end=0.1)
    w = model.a.weight.detach().clone()
    assert dual(w, 1.5)[1, 2] / dual(w, 1.5)[1].mean() < dual(w, 1.5)[0, 1] / dual(w, 1.5)[0].mean()
    model.a.weight.grad = torch.randn(2, 3, dtype=torch.float64)
    optimizer.step()
    assert topology.events[0].threshold == pytest.approx(0.5 / (6.4 / 3))
