import itertools
import math
import re
from collections import Counter

import pytest
import torch
from small_networks import NETWORKS, OPTIMIZERS, Rows, backward, copies, lpsgd, perceptron, sgd, still, train
from torch import nn

import lpsphere as lp
from lpsphere.neurons import select

KEEP = {"initial_sparsity": "keep", "include_last": True}


def masks(topology):
    return [mask.int().tolist() for mask in topology.masks.values()]


def f32(rows):
    return torch.tensor(rows).tolist()


def step_by(style, model, optimizer, topology, compute):
    """One step whose gradients ``compute`` makes, in one of the ways to ask for it."""

    def closure():
        optimizer.zero_grad()
        with torch.enable_grad():
            compute()
        if "clip" in style:
            topology.mask_grads()
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        return torch.tensor(7.0)

    if style.startswith("positional"):
        assert optimizer.step(closure) == 7
    elif style.startswith("keyword"):
        assert optimizer.step(closure=closure) == 7
    else:
        closure()
        optimizer.step()


STYLES = ["plain", "positional closure", "keyword closure", "clip", "positional closure, clip", "keyword closure, clip"]


# RigL.

A = [[4.0, -1.0, 0.0, 3.0], [0.1, 0.0, -0.2, 0.3]]
B = [[5.0, 0.0, 0.0], [0.0, 1.0, -3.0]]
# int(.5 * 6) = 3 of a are dropped: .1, .2, .3, which is a whole neuron. int(.5 * 3) = 1 of b: 1, although a keeps a 1.
# Of what is not kept a's largest gradients are 5, 3 and 2, the last of a connection that was just dropped; b's is .4.
A_GRADIENT = [[9.0, 9.0, -3.0, 9.0], [2.0, -5.0, 0.5, -0.1]]
B_GRADIENT = [[7.0, 0.2, -0.4], [-0.3, 0.1, 7.0]]
A_BUFFER = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
B_BUFFER = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def rigl_by_hand(style="plain", **changes):
    model = Rows(A, B)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    settings = {"sparsity": 1 - 9 / 14, "total_steps": 10, "drop_fraction": 0.5, **KEEP, **changes}
    topology = lp.RigL(model, optimizer, **settings)
    for layer, rows in ((model.a, A_BUFFER), (model.b, B_BUFFER)):
        optimizer.state[layer.weight]["momentum_buffer"] = torch.tensor(rows)
    step_by(style, model, optimizer, topology, lambda: model.set_gradients(A_GRADIENT, B_GRADIENT))
    return model, topology


@pytest.mark.parametrize("style", STYLES)
def test_rigl_drops_the_smallest_weights_of_each_layer_and_grows_where_the_gradient_is_largest(style):
    model, topology = rigl_by_hand(style)
    assert masks(topology) == [[[1, 1, 1, 1], [1, 1, 0, 0]], [[1, 0, 1], [0, 0, 1]]]
    assert model.a.weight.tolist() == f32([[4.0, -1.0, 0.0, 3.0], [0.1, 0.0, 0.0, 0.0]])
    assert model.b.weight.tolist() == [[5.0, 0.0, 0.0], [0.0, 0.0, -3.0]]
    (event,) = topology.events
    assert event.step == 1
    assert event.dropped == {"a.weight": 2, "b.weight": 1}
    assert event.regrown == {"a.weight": 2, "b.weight": 1}
    assert event.threshold == 1
    assert event.sparsity == 1 - 9 / 14


@pytest.mark.parametrize("style", STYLES)
def test_rigl_keeps_the_momentum_of_what_it_grows_back_and_resets_that_of_what_is_new_or_gone(style):
    model, topology = rigl_by_hand(style)
    state = topology.optimizer.state
    assert state[model.a.weight]["momentum_buffer"].tolist() == [[1.0, 2.0, 0.0, 4.0], [5.0, 0.0, 0.0, 0.0]]
    assert state[model.b.weight]["momentum_buffer"].tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 6.0]]


def test_rigl_can_rank_the_whole_network():
    # int(.5 * 9) = 4 go: .1, .2, .3 and of the two 1s the first. Of what is not kept 9 (a's 1), 5, 3 and 2 come.
    _, topology = rigl_by_hand(ranking="network")
    assert masks(topology) == [[[1, 1, 1, 1], [1, 1, 0, 0]], [[1, 0, 0], [0, 1, 1]]]


def test_rigl_never_drops_the_largest_of_each_neuron_where_min_fan_in_asks_for_them():
    # .3 is protected: .1, .2 and 1 go; 9, 5 and 3 come. In b 5 and 3 are protected.
    _, topology = rigl_by_hand(min_fan_in=1)
    assert masks(topology) == [[[1, 1, 1, 1], [0, 1, 0, 1]], [[1, 0, 1], [0, 0, 1]]]


def test_the_number_that_rigl_drops_is_truncated_and_falls_by_a_half_cosine():
    generator = torch.Generator().manual_seed(0)
    model = Rows(torch.randn(7, 11, generator=generator).tolist(), torch.randn(5, 9, generator=generator).tolist())
    topology = lp.RigL(model, still(model), sparsity=0.4, total_steps=20, every=4, drop_fraction=0.3, include_last=True)
    for _ in range(20):
        for layer, mask in zip(model.children(), topology.masks.values(), strict=True):
            noise = torch.randn(mask.shape, generator=generator)
            layer.weight.grad = noise.masked_fill(mask, 0)  # nothing that is dropped can be grown back
        topology.optimizer.step()
    assert [event.step for event in topology.events] == [1, 5, 9, 13, 15]
    held = [round(77 * 0.6), round(45 * 0.6)]
    for event, progress in zip(topology.events, (0, 4 / 14, 8 / 14, 12 / 14, 1), strict=True):
        expected = [int(0.3 * (1 + math.cos(math.pi * progress)) / 2 * count) for count in held]
        assert list(event.dropped.values()) == list(event.regrown.values()) == expected
    assert topology.events[0].dropped == {"a.weight": 13, "b.weight": 8}  # of 13.8 and 8.1


def tensors(model, optimizer):
    """Every parameter, its gradient and its optimizer state, by name."""
    found = {}
    for name, param in model.named_parameters():
        found[name] = param.detach().clone()
        found[f"{name} gradient"] = param.grad.clone()
        for key, value in optimizer.state[param].items():
            if isinstance(value, torch.Tensor):
                found[f"{name} {key}"] = value.clone()
    return found


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
@pytest.mark.parametrize("network", NETWORKS)
def test_at_an_update_of_rigl_nothing_moves_but_what_is_dropped(network, optimizer_name, style):
    model = NETWORKS[network]()
    optimizer = OPTIMIZERS[optimizer_name](model)
    topology = lp.RigL(model, optimizer, sparsity=0.6, total_steps=10, begin=0.4, every=2)
    train(model, optimizer, range(3))
    before, old = tensors(model, optimizer), copies(topology.masks)
    dense = {}

    def compute():
        backward(model, 3)
        dense.update({name: param.grad.clone() for name, param in model.named_parameters()})

    step_by(style, model, optimizer, topology, compute)
    after = tensors(model, optimizer)
    assert topology.state_dict()["step"] == 4
    assert [event.step for event in topology.events] == [4]
    assert sum(topology.events[0].regrown.values()) > 0
    assert before.keys() == after.keys()
    for key, value in after.items():
        name = key.split()[0]
        if key.endswith(" gradient"):
            expected = dense[name].masked_fill(~old[name], 0) if name in old else dense[name]
            if "clip" in style:
                expected = expected * (value.norm() / expected.norm())
                torch.testing.assert_close(value, expected)
                assert 0 < value.norm() <= 0.01
                continue
        elif name in old and value.shape == old[name].shape:
            stayed = old[name] & topology.masks[name]
            expected = torch.where(stayed, before[key], 0)
            assert (expected[stayed] != 0).any()
        else:
            expected = before[key]
        assert torch.equal(value, expected), key
    train(model, optimizer, range(4, 5))
    moved = tensors(model, optimizer)
    assert not any(torch.equal(moved[name], after[name]) for name, _ in model.named_parameters())


@pytest.mark.parametrize("network", NETWORKS)
def test_at_an_update_of_rigl_on_spheres_only_the_neurons_that_lose_connections_are_put_back(network):
    model = NETWORKS[network]()
    optimizer = lpsgd(model)
    topology = lp.RigL(model, optimizer, sparsity=0.6, total_steps=10, begin=0.4, every=2)
    train(model, optimizer, range(3))
    backward(model, 3)
    before, old = tensors(model, optimizer), copies(topology.masks)
    optimizer.step()
    assert sum(topology.events[0].regrown.values()) > 0
    after = tensors(model, optimizer)
    for name, param in model.named_parameters():
        if name not in old:
            assert torch.equal(param, before[name]), name
            assert torch.equal(after[f"{name} momentum_buffer"], before[f"{name} momentum_buffer"]), name
    for neuron in select(model):
        mask = topology.masks[neuron.name]
        stayed = old[neuron.name] & mask
        momentum = f"{neuron.name} momentum_buffer"
        assert torch.equal(after[momentum], torch.where(stayed, before[momentum], 0))
        rows = zip(*map(neuron.layout.to_rows, (before[neuron.name], after[neuron.name], stayed)), strict=True)
        for was, now, common in rows:
            assert (now[~common] == 0).all()
            ratios = now[common & (was != 0)] / was[common & (was != 0)]
            torch.testing.assert_close(ratios, ratios.mean().expand_as(ratios), rtol=1e-4, atol=0)


# SET.

# The step turns 4 into .1; .1 and .5 are then the smallest, int(.4 * 5) = 2. Five are not kept: the two and the zeros.
W = [[4.0, 0.5, 0.0, 3.0], [0.0, 2.0, -6.0, 0.0]]
W_GRADIENT = [[3.9, 0.0, 9.0, 0.0], [9.0, 0.0, 0.0, 9.0]]
NOT_KEPT = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 3)]


def set_by_hand(seed, gradient=W_GRADIENT, lr=1.0):
    model = Rows(W)
    return model, set_step(model, seed, gradient, lr)


def set_step(model, seed, gradient, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    topology = lp.SET(model, optimizer, sparsity=3 / 8, total_steps=10, drop_fraction=0.4, seed=seed, **KEEP)
    model.set_gradients(gradient)
    optimizer.step()
    return topology


def test_set_takes_the_gradient_step_and_then_drops_the_smallest_weights():
    seen = set()
    for seed in range(40):
        model, topology = set_by_hand(seed)
        (mask,) = topology.masks.values()
        assert mask[0, 3]
        assert mask[1, 1]
        assert mask[1, 2]
        assert topology.connections == 5
        grown = [place for place in NOT_KEPT if mask[place]]
        seen.update(grown)
        expected = torch.tensor([[0.0, 0.0, 0.0, 3.0], [0.0, 2.0, -6.0, 0.0]])
        for place, weight in (((0, 0), torch.tensor(4.0) - torch.tensor(3.9)), ((0, 1), 0.5)):
            expected[place] = weight if place in grown else 0  # what is grown back keeps its weight
        assert torch.equal(model.a.weight, expected)
        momentum = torch.zeros(2, 4)
        momentum[0, 0] = 3.9 if (0, 0) in grown else 0
        assert torch.equal(topology.optimizer.state[model.a.weight]["momentum_buffer"], momentum)
        assert topology.events[0].threshold == 0.5
    assert seen == set(NOT_KEPT)


def test_set_grows_uniformly_at_random_among_all_that_are_not_kept():
    counts = Counter()
    for seed in range(600):
        (mask,) = set_by_hand(seed)[1].masks.values()
        counts[tuple(place for place in NOT_KEPT if mask[place])] += 1
    pairs = list(itertools.combinations(NOT_KEPT, 2))
    assert set(counts) == set(pairs)
    # Chi squared with 9 degrees of freedom exceeds 27.9 once in a thousand times.
    assert sum((counts[pair] - 60) ** 2 / 60 for pair in pairs) < 27.9


def test_the_growth_of_set_depends_on_its_seed_alone():
    grown = []
    for seed, torch_seed, gradient in ((3, 0, W_GRADIENT), (3, 1, [[0.0] * 4, [-1.0] * 4])):
        model = Rows(W)
        torch.manual_seed(torch_seed)
        state = torch.get_rng_state()
        grown.append(masks(set_step(model, seed, gradient, lr=0.0)))
        assert torch.equal(torch.get_rng_state(), state)
    assert grown[0] == grown[1]
    assert any(masks(set_by_hand(seed, lr=0.0)[1]) != grown[0] for seed in range(4, 10))


# SNIP.


def test_snip_keeps_the_largest_products_of_weight_and_summed_gradient():
    model = Rows([[1.0, -2.0, 3.0, 4.0], [0.1, 5.0, -1.0, 1.0]], [[2.0, 1.0], [-1.0, 0.5]])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    topology = lp.SNIP(model, optimizer, sparsity=0.5, total_steps=10, batches=2, include_last=True)
    weights = [layer.weight.detach().clone() for layer in model.children()]
    model.set_gradients([[50.0, 1.0, 0.0, 1.0], [60.0, -1.0, 2.0, 1.0]], [[1.0, 1.0], [0.0, 9.0]])
    optimizer.step()
    assert topology.events == []
    assert topology.sparsity == 0
    assert all(torch.equal(w, layer.weight) for w, layer in zip(weights, model.children(), strict=True))
    model.set_gradients([[-50.0, 1.0, 0.5, 2.0], [-40.0, 1.0, 2.0, 1.0]], [[1.0, -2.0], [0.0, -9.0]])
    optimizer.step()
    # |w * sum|: 0, 4, 1.5, 12; 2, 0, 4, 2 and 4, 1; 0, 0. Six stay: 12, 4, 4, 4 and both 2s.
    assert masks(topology) == [[[0, 1, 0, 1], [1, 0, 1, 1]], [[1, 0], [0, 0]]]
    kept = [torch.where(mask, w, 0) for mask, w in zip(topology.masks.values(), weights, strict=True)]
    assert all(torch.equal(w, layer.weight) for w, layer in zip(kept, model.children(), strict=True))
    (event,) = topology.events
    assert event.step == 2
    assert event.dropped == {"a.weight": 3, "b.weight": 3}
    assert event.regrown == {"a.weight": 0, "b.weight": 0}
    assert event.threshold == 1.5


@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("ranking", ["network", "layer"])
def test_snip_is_the_top_of_the_saliency_that_plain_autograd_gives(ranking, batches, optimizer_name):
    twin = perceptron().double()
    for step in range(batches):
        backward(twin, step)  # the gradients add up
    saliency = {
        name: (twin.get_parameter(name) * twin.get_parameter(name).grad).abs() for name in ("0.weight", "3.weight")
    }
    groups = [list(saliency)] if ranking == "network" else [[name] for name in saliency]
    expected = {}
    for names in groups:
        values = torch.cat([saliency[name].flatten() for name in names])
        kept = values.sort(descending=True).values[: round(len(values) * 0.3)]
        expected.update({name: saliency[name] >= kept[-1] for name in names})

    model = perceptron().double()
    optimizer = OPTIMIZERS[optimizer_name](model)
    topology = lp.SNIP(model, optimizer, sparsity=0.7, total_steps=20, batches=batches, ranking=ranking)
    start = {name: param.detach().clone() for name, param in model.named_parameters()}
    for step in range(batches):
        assert topology.connections == topology.weights
        assert topology.events == []
        assert all(torch.equal(param, start[name]) for name, param in model.named_parameters())
        train(model, optimizer, range(step, step + 1))
    for name, param in model.named_parameters():
        assert param.grad is not None
        assert not optimizer.state[param]
        mask = topology.masks.get(name, torch.ones_like(param, dtype=torch.bool))
        assert torch.equal(param, start[name] * mask)
    assert all(torch.equal(mask, expected[name]) for name, mask in topology.masks.items())
    assert [event.step for event in topology.events] == [batches]
    if ranking == "network":
        assert int(topology.masks["0.weight"].sum()) != round(12 * 16 * 0.3)

    before = copies(topology.masks)
    train(model, optimizer, range(batches, 20))
    assert all(torch.equal(mask, before[name]) for name, mask in topology.masks.items())
    assert len(topology.events) == 1
    assert not any(torch.equal(param, start[name]) for name, param in model.named_parameters())


# GMP.


def gmp_by_hand(ranking):
    generator = torch.Generator().manual_seed(0)
    signs = 1 - 2 * torch.randint(0, 2, (30,), generator=generator)
    sizes = (torch.randperm(30, generator=generator) + 1) * signs
    model = Rows(sizes[:20].view(4, 5).float().tolist(), sizes[20:].view(5, 2).float().tolist())
    settings = {"sparsity": 0.8, "total_steps": 10, "begin": 0.1, "end": 0.9, "every": 2, "include_last": True}
    return model, lp.GMP(model, still(model), ranking=ranking, **settings)


@pytest.mark.parametrize(
    ("ranking", "counts"),
    [
        # Updates after steps 1, 3, 5, 7, 9: (1 - x)^3 is 1, .421875, .125, .015625, 0.
        # 4 + 16 (1 - x)^3 = 20, 10.75, 6, 4.25, 4 of the first layer and 2 + 8 (1 - x)^3 = 10, 5.375, 3, 2.125, 2.
        ("layer", [(20, 10), (11, 5), (6, 3), (4, 2), (4, 2)]),
        # 6 + 24 (1 - x)^3 = 30, 16.125, 9, 6.375, 6.
        ("network", [30, 16, 9, 6, 6]),
    ],
)
def test_gmp_prunes_the_smallest_weights_on_a_cubic_schedule_and_never_grows(ranking, counts):
    model, topology = gmp_by_hand(ranking)
    sizes = [layer.weight.detach().abs() for layer in model.children()]
    updates = iter(counts)
    current = [torch.ones_like(size, dtype=torch.bool) for size in sizes]
    for step in range(1, 11):
        model.set_gradients([[100.0] * 5] * 4, [[100.0] * 2] * 5)
        topology.optimizer.step()
        if step in (1, 3, 5, 7, 9):
            count = next(updates)
            if ranking == "layer":
                least = [
                    size.flatten().sort(descending=True).values[n - 1] for size, n in zip(sizes, count, strict=True)
                ]
                current = [size >= low for size, low in zip(sizes, least, strict=True)]
            else:
                current = [size > 30 - count for size in sizes]  # the weights of the network are 1 to 30
            assert topology.events[-1].regrown == {"a.weight": 0, "b.weight": 0}
        assert all(torch.equal(a, b) for a, b in zip(topology.masks.values(), current, strict=True)), step
    assert len(topology.events) == 5


@pytest.mark.parametrize("ranking", ["layer", "network"])
@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_gmp_never_grows_while_it_trains(optimizer_name, ranking):
    model = perceptron()
    optimizer = OPTIMIZERS[optimizer_name](model)
    topology = lp.GMP(model, optimizer, sparsity=0.8, total_steps=20, ranking=ranking, every=2)
    for step in range(20):
        before = copies(topology.masks)
        train(model, optimizer, range(step, step + 1))
        assert not any((mask & ~before[name]).any() for name, mask in topology.masks.items())
    assert topology.connections == round(topology.weights * 0.2)


# Static.


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_a_static_mask_never_changes(optimizer_name):
    model = perceptron()
    optimizer = OPTIMIZERS[optimizer_name](model)
    topology = lp.Static(model, optimizer, sparsity=0.7, total_steps=20)
    before = copies(topology.masks)
    start = model[0].weight.detach().clone()
    for step in range(25):
        train(model, optimizer, range(step, step + 1))
        for name, mask in topology.masks.items():
            assert torch.equal(mask, before[name])
            assert (model.get_parameter(name)[~mask] == 0).all()
    assert topology.events == []
    assert topology.connections == round(topology.weights * 0.3)
    assert (model[0].weight != start)[topology.masks["0.weight"]].any()


def test_a_static_mask_by_hand_is_that_of_the_weights_that_are_not_zero():
    model = Rows(A, B)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    topology = lp.Static(model, optimizer, sparsity=1 - 9 / 14, total_steps=10, **KEEP)
    for _ in range(3):
        model.set_gradients(A_GRADIENT, B_GRADIENT)
        optimizer.step()
    assert masks(topology) == [[[1, 1, 0, 1], [1, 0, 1, 1]], [[1, 0, 0], [0, 1, 1]]]
    moved = torch.tensor(B) - 3 * 0.1 * torch.tensor([[7.0, 0.0, 0.0], [0.0, 0.1, 7.0]])
    torch.testing.assert_close(model.b.weight.detach(), moved)


@pytest.mark.parametrize("sparsity", [0.3, 0.9])
@pytest.mark.parametrize("zeros", [1, 1_234_567])
def test_a_static_mask_of_another_sparsity_is_refused_with_the_one_to_pass(zeros, sparsity):
    model = nn.Sequential(nn.Linear(1500, 2000, bias=False), nn.Linear(2000, 2, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0).view(-1)[:zeros] = 0
    optimizer = sgd(model)
    with pytest.raises(ValueError, match='initial_sparsity="keep"') as refused:
        lp.Static(model, optimizer, sparsity=sparsity, total_steps=10, initial_sparsity="keep")
    assert list(model.state_dict()) == ["0.weight", "1.weight"]
    assert int((model[0].weight == 0).sum()) == zeros
    assert not optimizer._optimizer_step_pre_hooks
    advice = re.search(r"(?:pass sparsity=|raise sparsity to )(\d[\d.e-]*)", str(refused.value))
    topology = lp.Static(model, optimizer, sparsity=float(advice[1]), total_steps=10, initial_sparsity="keep")
    assert topology.connections == 3_000_000 - zeros
    topology.finalize()


def test_a_static_mask_refuses_another_start():
    model = perceptron()
    with pytest.raises(ValueError, match=r'stays as it is: leave initial_sparsity=0\.2 out, or pass "keep"; GMP goes'):
        lp.Static(model, sgd(model), sparsity=0.5, total_steps=10, initial_sparsity=0.2)
    assert not hasattr(model[0], "weight_mask")


# A method of one's own.


def test_a_method_with_nothing_but_its_two_scores_keeps_the_sparsity():
    class Contrary(lp.Topology):
        """Drops the largest weights and grows where the gradient is smallest."""

        def drop_scores(self, neuron, mask):
            return 1 / (1 + neuron.weight.abs())

        def grow_scores(self, neuron, gradient):
            return 1 / (1 + gradient.abs())

    model = Rows(A, B)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    topology = Contrary(model, optimizer, sparsity=1 - 9 / 14, total_steps=10, drop_fraction=0.4, **KEEP)
    model.set_gradients(A_GRADIENT, [[0.0, 0.2, -0.4], [0.3, -0.6, 0.0]])
    optimizer.step()
    # After the step a is -.5, -5.5, -, -1.5; -.9, -, -.45, .35: int(.4 * 6) = 2 go, 5.5 and 1.5. Where nothing is kept
    # |g| is 9, 3, 9 and 5: 3 and 5 come. b is 5, 1.3, -3: int(.4 * 3) = 1 goes, 5, and comes back, as its g is 0.
    assert masks(topology) == [[[1, 0, 1, 0], [1, 1, 1, 1]], [[1, 0, 0], [0, 1, 1]]]
    assert model.b.weight.tolist() == f32([[5.0, 0.0, 0.0], [0.0, 1.3, -3.0]])
    for _ in range(9):
        model.set_gradients(A_GRADIENT, B_GRADIENT)
        optimizer.step()
        assert topology.connections == 9
    assert len(topology.events) > 3


def test_a_method_without_its_scores_is_abstract():
    class Half(lp.Topology):
        def drop_scores(self, neuron, mask):
            return neuron.weight.abs()

    model = perceptron()
    with pytest.raises(TypeError, match="grow_scores"):
        Half(model, sgd(model), sparsity=0.5, total_steps=10)


def test_more_batches_than_steps_are_refused():
    model = perceptron()
    with pytest.raises(ValueError, match="batches=6 is more than total_steps=5: nothing would ever be pruned"):
        lp.SNIP(model, still(model), sparsity=0.5, total_steps=5, batches=6)


def test_the_saliencies_of_half_precision_weights_do_not_underflow():
    generator = torch.Generator().manual_seed(0)
    weights, gradients = torch.randn(2, 20, 30, generator=generator)
    model = Rows(weights.tolist(), dtype=torch.float16)
    topology = lp.SNIP(model, still(model), sparsity=0.8, total_steps=1, include_last=True)
    model.a.weight.grad = (1e-6 * gradients).half()
    saliency = (model.a.weight.detach().double() * model.a.weight.grad.double()).abs().flatten()
    topology.optimizer.step()
    kept = saliency.argsort(descending=True, stable=True)[:120]
    assert set(topology.masks["a.weight"].flatten().nonzero().flatten().tolist()) == set(kept.tolist())


@pytest.mark.parametrize("method", [lp.RigL, lp.SET])
def test_a_layer_without_a_gradient_is_left_alone_when_the_whole_network_is_ranked(method):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    topology = method(model, optimizer, sparsity=0.5, total_steps=10, every=1, ranking="network", seed=1)
    model[0].requires_grad_(False)
    before = {name: mask.clone() for name, mask in topology.masks.items()}
    train(model, optimizer, range(5))
    assert torch.equal(topology.masks["0.weight"], before["0.weight"])
    assert not torch.equal(topology.masks["3.weight"], before["3.weight"])
    assert topology.connections == round(topology.weights * 0.5)
