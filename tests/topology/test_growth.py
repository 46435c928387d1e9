"""The best openings of a layer, found some rows at a time, are those that ranking all of it would find."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lpsphere.neurons import select
from lpsphere.sparse import SparseLinear
from lpsphere.topology import growth
from lpsphere.topology.growth import Best, FactoredGradient, absent_from, offer_openings, random_places
from lpsphere.topology.masks import lowest, random_units
from lpsphere.topology.places import places_of


def neuron_of(neurons, fan_in, sparsity=0.5):
    return select(nn.Sequential(SparseLinear(fan_in, neurons, sparsity=sparsity), nn.Linear(neurons, 2)))[0]


def best_openings(method, neuron, gradient, count, taken, dtype=torch.float32):
    best = Best(count, dtype)
    offer_openings(best, method, neuron, gradient, taken)
    return best.result()


class ByGradient:
    grows_at_random = False

    def grow_scores(self, neuron, gradient):
        return gradient


class AtRandom:
    grows_at_random = True

    def __init__(self, seed=0):
        self._generator = torch.Generator().manual_seed(seed)

    def grow_scores(self, neuron, gradient):
        return torch.rand(gradient.shape, generator=self._generator)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(growth, "BLOCK", 20)


@settings(deadline=None)  # the first call compiles
@given(
    scores=st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, math.inf, math.nan]), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    data=st.data(),
)
def test_the_best_of_blocks_are_the_best_of_all_ties_by_place(scores, cuts, data):
    all_scores = torch.tensor(scores)
    comparable = all_scores[~all_scores.isnan()]
    count = data.draw(st.integers(0, len(comparable)))
    best = Best(count)
    ends = sorted({0, len(scores), *(cut for cut in cuts if cut < len(scores))})
    for start, stop in itertools.pairwise(ends):
        best.offer(all_scores[start:stop], start)
        if start % 2:
            best._select()
    places, found = best.result()
    expected = lowest(-all_scores.abs(), count).nonzero().flatten()
    assert places.tolist() == expected.tolist()
    assert torch.equal(found, all_scores[expected].double())


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("count", [0, 1, 7, 30])
def test_openings_by_the_gradient_are_those_of_the_whole_gradient(count):
    neuron = neuron_of(9, 8)
    generator = torch.Generator().manual_seed(1)
    dy, x = (torch.randint(-2, 3, (size, 3), generator=generator).float() for size in (9, 8))  # many ties
    taken = places_of(neuron)
    places, scores = best_openings(ByGradient(), neuron, FactoredGradient(dy, x), count, taken)
    dense = (dy @ x.t()).flatten()
    appeal = dense.abs()
    appeal[taken] = -1
    expected = lowest(-appeal, count).nonzero().flatten()
    assert torch.equal(places, expected)
    assert torch.equal(scores, dense[expected].double())


def test_no_more_openings_are_found_than_there_are():
    neuron = neuron_of(3, 4)
    gradient = FactoredGradient(torch.randn(3, 2), torch.randn(4, 2))
    places, _ = best_openings(ByGradient(), neuron, gradient, 100, places_of(neuron))
    assert sorted([*places.tolist(), *places_of(neuron).tolist()]) == list(range(12))


def test_without_a_gradient_the_first_openings_are_as_good_as_any():
    neuron = neuron_of(3, 4)
    taken = torch.tensor([0, 1, 3, 11])
    places, scores = best_openings(ByGradient(), neuron, None, 4, taken)
    assert places.tolist() == [2, 4, 5, 6]
    assert scores.tolist() == [0.0] * 4


def test_scores_of_another_shape_are_refused():
    class Whole(ByGradient):
        def grow_scores(self, neuron, gradient):
            return torch.zeros(neuron.shape)

    neuron = neuron_of(600, 1000, 0.99)
    gradient = FactoredGradient(torch.randn(600, 2), torch.randn(1000, 2))
    with pytest.raises(ValueError, match=r"grow_scores of Whole returned scores of shape \(600, 1000\) for a gradient"):
        best_openings(Whole(), neuron, gradient, 3, places_of(neuron))


@pytest.mark.usefixtures("small_blocks")
def test_random_openings_are_those_of_a_mask_with_the_same_generator():
    neuron = neuron_of(9, 8)
    taken = places_of(neuron)
    method = AtRandom(3)
    places, _ = best_openings(method, neuron, torch.empty(0), 10, taken)
    other = torch.Generator().manual_seed(3)
    scores = torch.rand((9, 8), generator=other).flatten()
    scores[taken] = -1
    assert torch.equal(places, lowest(-scores, 10).nonzero().flatten())
    assert torch.equal(method._generator.get_state(), other.get_state())


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("count", "fewest"), [(0, 0), (20, 0), (20, 2), (72, 1), (18, 2)])
def test_random_places_are_those_of_a_random_mask(count, fewest):
    neuron = neuron_of(9, 8)
    places = random_places(neuron, count, fewest, torch.Generator().manual_seed(4))
    units = random_units((9, 8), count, fewest, torch.Generator().manual_seed(4))
    assert torch.equal(places, units.flatten().nonzero().flatten())


@pytest.mark.parametrize(("count", "fewest"), [(0, 0), (9, 1), (20, 2), (30, 0), (60, 3)])
def test_places_of_large_layers_have_exactly_their_count_and_the_fewest_of_each_neuron(monkeypatch, count, fewest):
    monkeypatch.setattr(growth, "LARGE", 1)
    places = random_places(neuron_of(9, 8), count, fewest, torch.Generator().manual_seed(4))
    assert len(places) == count
    assert (places.diff() > 0).all()
    assert (places // 8).bincount(minlength=9).min() >= fewest


def test_large_layers_draw_all_their_openings_as_often(monkeypatch):
    monkeypatch.setattr(growth, "LARGE", 1)
    neuron = neuron_of(4, 5)
    taken, method, hits = torch.tensor([3, 4, 11]), AtRandom(), torch.zeros(20)
    for _ in range(4000):
        places, scores = best_openings(method, neuron, torch.empty(0), 6, taken)
        assert len(places) == len(scores) == 6
        hits[places] += 1
    assert (hits[taken] == 0).all()
    others = absent_from(torch.arange(20), taken)
    share = 6 / 17
    assert (hits[others] / 4000 - share).abs().max() < 5 * math.sqrt(share * (1 - share) / 4000)


def test_the_scores_of_large_layers_are_the_largest_of_as_many_random_numbers(monkeypatch):
    monkeypatch.setattr(growth, "LARGE", 1)
    neuron, method = neuron_of(4, 5), AtRandom()
    found = torch.stack(
        [best_openings(method, neuron, torch.empty(0), 3, torch.empty(0).long())[1] for _ in range(4000)]
    )
    expected = torch.tensor([20 / 21, 19 / 21, 18 / 21])  # means of the order statistics
    assert (found.sort(1, descending=True).values.mean(0) - expected).abs().max() < 0.005
    assert (found.mean(0) - expected.mean()).abs().max() < 0.005  # whichever place they are given to


def test_absence_is_told_exactly():
    places = torch.tensor([0, 3, 4, 9])
    assert absent_from(places, torch.tensor([3, 9, 12])).tolist() == [True, False, True, False]
    assert absent_from(places, torch.empty(0).long()).all()
    assert absent_from(torch.empty(0).long(), places).numel() == 0


@pytest.mark.parametrize(
    ("dy", "x", "finite"),
    [
        ([[1.0], [2.0]], [[1.0], [3.0]], True),
        ([[1.0], [math.nan]], [[1.0], [3.0]], False),
        ([[1.0], [2.0]], [[math.inf], [3.0]], False),
        ([[1e30], [2.0]], [[1.0], [1e30]], False),  # their product overflows
        ([[1e30], [0.0]], [[0.0], [1e-30]], True),
        ([[1e30, 0.0]], [[0.0, 1e30]], True),
        ([[]], [[], []], True),
    ],
)
def test_a_product_is_finite_if_all_of_its_entries_are(dy, x, finite):
    assert FactoredGradient(torch.tensor(dy), torch.tensor(x)).is_finite() == finite
