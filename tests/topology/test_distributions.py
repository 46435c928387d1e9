import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lpsphere.topology import distributions


def shapes(*sizes):
    return [torch.Size(size) for size in sizes]


def layer_units(sizes, total, fewest, distribution="uniform"):
    return distributions.layer_units(sizes, total, fewest, [math.prod(size) for size in sizes], distribution)


def test_uniform_gives_every_layer_the_same_density():
    assert layer_units(shapes((10, 20), (30, 10), (5, 2, 10)), 120, [0, 0, 0]) == [40, 60, 20]


def test_the_rest_of_a_division_goes_to_the_largest_remainders_then_to_the_first_layers():
    assert layer_units(shapes((1, 10), (1, 10), (1, 10)), 8, [0, 0, 0]) == [3, 3, 2]
    assert layer_units(shapes((1, 2), (1, 6)), 3, [0, 0]) == [1, 2]


def test_erk_connections_are_proportional_to_the_sum_of_the_dimensions_where_nothing_is_capped():
    assert layer_units(shapes((64, 36), (30, 20, 3, 3), (100, 44)), 300, [0, 0, 0], "erk") == [100, 56, 144]


def test_erk_caps_a_layer_at_its_size_and_the_others_share_the_rest_in_proportion():
    counts = layer_units(shapes((2, 3), (40, 60), (70, 30)), 406, [0, 0, 0], "erk")
    assert counts == [6, 200, 200]


def test_a_layer_at_its_minimum_stays_there_and_the_others_share_the_rest():
    assert layer_units(shapes((10, 10), (20, 10)), 60, [40, 0]) == [40, 20]


@pytest.mark.parametrize("distribution", ["uniform", "erk"])
@given(data=st.data())
def test_totals_are_exact_and_minimum_and_size_are_respected(distribution, data):
    sizes = data.draw(st.lists(st.lists(st.integers(1, 40), min_size=2, max_size=4), min_size=1, max_size=6))
    volumes = [math.prod(size) for size in sizes]
    minimum = [data.draw(st.integers(0, volume)) for volume in volumes]
    total = data.draw(st.integers(sum(minimum), sum(volumes)))
    counts = layer_units(shapes(*sizes), total, minimum, distribution)
    assert sum(counts) == total
    assert all(low <= count <= high for low, count, high in zip(minimum, counts, volumes, strict=True))
    shares = volumes if distribution == "uniform" else [sum(size) for size in sizes]
    # One factor serves all: a layer above its minimum never has a smaller one than a layer below its size.
    above = [(c - 1) / s for c, s, low in zip(counts, shares, minimum, strict=True) if c > low]
    below = [(c + 1) / s for c, s, high in zip(counts, shares, volumes, strict=True) if c < high]
    if above and below:
        assert max(above) <= min(below) + 1e-9


@pytest.mark.parametrize("distribution", ["uniform", "erk"])
@pytest.mark.parametrize("total", [10_000_019, 123_456_789, 899_999_999])
def test_totals_are_exact_for_networks_of_a_billion_weights(total, distribution):
    sizes = shapes((40_000, 20_000), (10_007, 9_973), (3, 100_003), (17, 5))
    assert sum(layer_units(sizes, total, [40_000, 10_007, 3, 17], distribution)) == total


def test_an_unknown_distribution_is_refused():
    with pytest.raises(ValueError, match='distribution must be "uniform" or "erk", got \'er\''):
        layer_units(shapes((2, 2)), 2, [0], "er")


@pytest.mark.parametrize("total", [3, 13])
def test_a_total_that_does_not_fit_is_refused(total):
    with pytest.raises(ValueError, match=f"cannot divide {total} over layers that take 4 to 12"):
        layer_units(shapes((2, 4), (2, 2)), total, [2, 2])
