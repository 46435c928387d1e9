import re
import warnings
from fractions import Fraction
from functools import partial
from math import prod

import pytest
import torch
from small_networks import perceptron
from torch import nn

import lpsphere as lp
from lpsphere.topology.distributions import layer_units

STEPS = 6
SPARSITIES = [0.5, 0.8, 0.9, 0.95, 0.98, 0.995]
# Neurons so wide that .995 leaves each one a connection; the last selected layer is so narrow that ERK caps it.
SIZES = (300, 240, 250, 4, 3)
SHAPES = [(240, 300), (250, 240), (4, 250)]
WEIGHTS = 240 * 300 + 250 * 240 + 4 * 250
EVOLVING = {"SET": partial(lp.SET, every=1), "RigL": partial(lp.RigL, every=1), "GMP": partial(lp.GMP, every=1)}
BY_LAYER = {**EVOLVING, "Static": lp.Static}
BY_NETWORK = {"SNIP": lp.SNIP, "SemiPruning": partial(lp.SemiPruning, every=1)}


def trained(method, sizes=SIZES, each_step=None, **settings):
    model = perceptron(sizes=sizes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    topology = method(model, optimizer, total_steps=STEPS, **settings)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x, y = torch.randn(16, sizes[0], generator=generator), torch.randint(0, 3, (16,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if each_step is not None:
            each_step(topology)
    return model, topology


def by_layer(topology):
    return [int(mask.sum()) for mask in topology.masks.values()]


def erk(shapes, total):
    """Connections in proportion to the sum of a shape; a layer that would be more than full is full."""
    full = set()
    while True:
        rest = [i for i in range(len(shapes)) if i not in full]
        factor = Fraction(total - sum(prod(shapes[i]) for i in full), sum(sum(shapes[i]) for i in rest))
        overfull = {i for i in rest if factor * sum(shapes[i]) > prod(shapes[i])}
        if not overfull:
            return [Fraction(prod(s)) if i in full else factor * sum(s) for i, s in enumerate(shapes)]
        full |= overfull


def expected_counts(distribution, total):
    return layer_units(SHAPES, total, [0, 0, 0], [prod(shape) for shape in SHAPES], distribution)


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("distribution", ["uniform", "erk"])
@pytest.mark.parametrize("name", BY_LAYER)
def test_counts_of_methods_that_rank_by_layer_are_exact_in_total_and_in_every_layer(name, distribution, sparsity):
    model, topology = trained(BY_LAYER[name], sparsity=sparsity, distribution=distribution)
    total = round(WEIGHTS * (1 - sparsity))
    assert sum(by_layer(topology)) == topology.connections == total
    counts = by_layer(topology)
    assert counts == expected_counts(distribution, total)
    assert topology.sparsity == 1 - total / WEIGHTS
    assert len(topology.events) == (0 if name == "Static" else 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        topology.finalize()
    for layer, count in zip((model[0], model[3], model[6]), counts, strict=True):
        assert int((layer.weight != 0).sum()) <= count


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("distribution", ["uniform", "erk"])
@pytest.mark.parametrize("name", ["SET", "RigL", "Static"])
def test_counts_of_methods_of_constant_sparsity_are_exact_at_every_step(name, distribution, sparsity):
    expected = expected_counts(distribution, round(WEIGHTS * (1 - sparsity)))
    seen = []
    trained(
        BY_LAYER[name],
        each_step=lambda topology: seen.append(by_layer(topology)),
        sparsity=sparsity,
        distribution=distribution,
    )
    assert seen == [expected] * STEPS


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("distribution", ["uniform", "erk"])
@pytest.mark.parametrize("name", BY_NETWORK)
def test_counts_of_methods_that_rank_the_network_are_exact_in_total(name, distribution, sparsity):
    _, topology = trained(BY_NETWORK[name], sparsity=sparsity, distribution=distribution)
    total = round(WEIGHTS * (1 - sparsity))
    assert sum(by_layer(topology)) == topology.connections == total
    assert topology.sparsity == 1 - total / WEIGHTS
    assert by_layer(topology) != expected_counts(distribution, total)  # each layer finds its own
    if name == "SemiPruning":
        assert all(mask.any(1).all() for mask in topology.masks.values())


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("distribution", ["uniform", "erk"])
def test_snip_by_layer_has_the_counts_of_the_distribution(distribution, sparsity):
    _, topology = trained(lp.SNIP, sparsity=sparsity, distribution=distribution, ranking="layer")
    assert by_layer(topology) == expected_counts(distribution, round(WEIGHTS * (1 - sparsity)))


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("name", EVOLVING)
def test_the_whole_network_can_be_ranked_with_an_exact_total(name, sparsity):
    _, topology = trained(EVOLVING[name], sparsity=sparsity, ranking="network")
    total = round(WEIGHTS * (1 - sparsity))
    assert topology.connections == total
    assert by_layer(topology) != expected_counts("uniform", total)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_erk_densities_are_those_of_its_formula_to_less_than_a_connection(sparsity):
    total = round(WEIGHTS * (1 - sparsity))
    exact = erk(SHAPES, total)
    assert (exact[2] == 1000) == (sparsity < 0.98)
    _, topology = trained(lp.Static, sparsity=sparsity, distribution="erk")
    counts = by_layer(topology)
    assert sum(counts) == total == sum(exact)
    assert all(abs(count - share) < 1 for count, share in zip(counts, exact, strict=True))
    densities = [Fraction(count, prod(shape)) for count, shape in zip(exact, SHAPES, strict=True)]
    assert densities[0] / densities[1] == Fraction(540, 72_000) / Fraction(490, 60_000)


def test_erk_counts_every_dimension_of_a_convolution():
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.Conv2d(6, 8, (3, 1), groups=2), nn.ConvTranspose2d(8, 6, 5, groups=2), nn.Linear(9, 2)
    )
    shapes = [(6, 4, 3, 3), (8, 3, 3, 1), (8, 3, 5, 5)]
    total = round((216 + 72 + 600) * 0.2)
    topology = lp.Static(
        model, torch.optim.SGD(model.parameters(), lr=0.1), sparsity=0.8, total_steps=1, distribution="erk"
    )
    counts = by_layer(topology)
    assert sum(counts) == total
    assert all(abs(count - exact) < 1 for count, exact in zip(counts, erk(shapes, total), strict=True))
    assert [tuple(mask.shape) for mask in topology.masks.values()] == shapes


@pytest.mark.parametrize("distribution", ["uniform", "erk"])
def test_at_995_each_neuron_keeps_a_connection_at_every_step_where_that_is_feasible(distribution):
    lowest = []
    trained(
        lp.SemiPruning,
        each_step=lambda topology: lowest.append(min(int(mask.sum(1).min()) for mask in topology.masks.values())),
        sparsity=0.995,
        initial_sparsity=0.99,
        distribution=distribution,
    )
    assert len(lowest) == STEPS
    assert min(lowest) == 1


@pytest.mark.parametrize("method", [lp.SemiPruning, lp.SET, lp.RigL, lp.GMP, lp.SNIP, lp.Static])
@pytest.mark.parametrize("min_fan_in", [1, 3])
def test_where_it_is_not_feasible_the_largest_feasible_sparsity_is_named_and_works(method, min_fan_in):
    sizes = (60, 30, 24, 3)
    weights, fewest = 60 * 30 + 30 * 24, (30 + 24) * min_fan_in
    with pytest.raises(
        ValueError,
        match=f"sparsity 0.995 leaves 13 of 2,520 connections, but {fewest} are needed so that each neuron keeps "
        rf"{min_fan_in}: the largest feasible sparsity is .*\. Choose that or less, or min_fan_in=0",
    ) as refused:
        trained(method, sizes, sparsity=0.995, min_fan_in=min_fan_in)
    largest = float(re.search(r"largest feasible sparsity is (0\.\d+)", str(refused.value))[1])
    assert 1 - fewest / weights - 1e-4 < largest <= 1 - fewest / weights
    _, topology = trained(method, sizes, sparsity=largest, min_fan_in=min_fan_in)
    assert topology.connections == round(weights * (1 - largest)) == fewest
    assert all((mask.sum(1) == min_fan_in).all() for mask in topology.masks.values())
    _, topology = trained(method, sizes, sparsity=0.995, min_fan_in=0)
    assert topology.connections == 13


def test_a_layer_never_starts_with_fewer_connections_than_it_ends_with():
    """Shares of 11 by largest remainders are 5, 5, 1; those of 10 are 4, 4, 2."""
    for method in (lp.GMP, lp.SNIP):
        model = nn.Sequential(*(nn.Linear(2, n, bias=False) for n in (3, 3, 1)), nn.Linear(5, 5))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        topology = method(
            model, optimizer, sparsity=1 - 10 / 14, initial_sparsity=1 - 11 / 14, total_steps=1, ranking="layer"
        )
        assert topology.connections == 11
        for layer in model:
            layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()
        assert by_layer(topology) == [4, 4, 2]
