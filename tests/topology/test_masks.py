import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lpsphere.neurons import select
from lpsphere.topology.granularity import Granularity
from lpsphere.topology.masks import (
    buffer_name,
    existing_mask,
    get_mask,
    lowest,
    random_units,
    set_mask,
    top_of_group,
    zero_outside,
)


def chosen(scores, count):
    return lowest(torch.tensor(scores), count).tolist()


def test_the_smallest_scores_are_chosen():
    assert chosen([3.0, -1.0, 2.0, 0.5], 2) == [False, True, False, True]


@pytest.mark.parametrize("count", [0, 4])
def test_none_and_all_can_be_chosen(count):
    assert chosen([3.0, -1.0, 2.0, 0.5], count) == [count == 4] * 4


def test_none_can_be_chosen_of_nothing():
    assert chosen([], 0) == []


def test_ties_go_to_the_lower_index():
    assert chosen([1.0, 0.0, 1.0, 0.0, 1.0], 3) == [True, True, False, True, False]


def test_nan_ranks_above_infinity():
    scores = [math.nan, math.inf, 1.0, math.nan, -math.inf]
    assert chosen(scores, 2) == [False, False, True, False, True]
    assert chosen(scores, 3) == [False, True, True, False, True]
    assert chosen(scores, 4) == [True, True, True, False, True]


@given(
    st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.5, -3.0, math.inf, -math.inf, math.nan]), max_size=30).flatmap(
        lambda scores: st.tuples(st.just(scores), st.integers(0, len(scores)))
    )
)
def test_exactly_as_a_stable_sort_would_choose(drawn):
    scores, count = drawn
    order = sorted(
        range(len(scores)), key=lambda i: (math.isnan(scores[i]), 0 if scores[i] != scores[i] else scores[i])
    )
    assert chosen(scores, count) == [i in order[:count] for i in range(len(scores))]


@given(neurons=st.integers(1, 12), fan_in=st.integers(1, 12), min_fan_in=st.integers(0, 14), data=st.data())
def test_a_random_mask_has_exactly_its_connections_and_min_fan_in_of_each_neuron(neurons, fan_in, min_fan_in, data):
    count = data.draw(st.integers(neurons * min(min_fan_in, fan_in), neurons * fan_in))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    mask = random_units((neurons, fan_in), count, min(min_fan_in, fan_in), generator)
    assert mask.dtype == torch.bool
    assert mask.shape == (neurons, fan_in)
    assert int(mask.sum()) == count
    assert int(mask.sum(1).min()) >= min(min_fan_in, fan_in)


def test_a_random_mask_is_uniform_over_the_entries():
    generator = torch.Generator().manual_seed(0)
    frequency = sum(random_units((3, 5), 6, 1, generator).double() for _ in range(4000)) / 4000
    assert (frequency - 6 / 15).abs().max() < 5 * math.sqrt(0.4 * 0.6 / 4000)


def test_a_random_mask_depends_on_the_generator_alone():
    first = random_units((8, 8), 20, 1, torch.Generator().manual_seed(3))
    assert torch.equal(first, random_units((8, 8), 20, 1, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, random_units((8, 8), 20, 1, torch.Generator().manual_seed(4)))


def test_the_largest_scores_of_each_group_are_at_the_top_ties_by_index():
    among = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 0, 0]], dtype=torch.bool)
    scores = torch.tensor([[0.1, 2.0, 2.0, 3.0], [0.0, 9.0, 9.0, 0.0], [9.0, 0.0, 9.0, 9.0]])
    expected = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 1], [0, 1, 0, 0]], dtype=torch.bool)
    assert torch.equal(top_of_group(scores, among, 2), expected)
    assert not top_of_group(scores, among, 0).any()
    counts = torch.tensor([1, 0, 3])
    assert top_of_group(scores, among, counts).int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]


def test_the_neurons_of_a_grouped_transposed_convolution_are_its_output_channels():
    neuron = select(nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False))[0]
    scores = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).abs()
    grid = Granularity().grid(neuron, scores)
    kept = Granularity().spread(neuron, top_of_group(grid, torch.ones_like(grid, dtype=torch.bool), 1))
    assert int(kept.sum()) == 6
    for group in range(2):
        for channel in range(3):
            filters = scores[2 * group : 2 * group + 2, channel]
            assert filters.flatten()[kept[2 * group : 2 * group + 2, channel].flatten()] == filters.max()


def test_a_mask_lives_in_a_persistent_bool_buffer_that_is_written_in_place():
    layer = nn.Linear(3, 2)
    neuron = select(layer)[0]
    assert buffer_name(neuron) == "weight_mask"
    assert get_mask(neuron) is None
    mask = torch.tensor([[True, False, True], [False, True, True]])
    set_mask(neuron, mask)
    buffer = get_mask(neuron)
    assert buffer is layer.weight_mask
    assert buffer is not mask
    assert torch.equal(layer.state_dict()["weight_mask"], mask)
    set_mask(neuron, ~mask)
    assert get_mask(neuron) is buffer
    assert torch.equal(buffer, ~mask)


def test_existing_masks_are_buffers_or_else_the_weights_that_are_not_zero():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    neurons = select(model)
    with torch.no_grad():
        neurons[1].weight[0, 1] = 0
    set_mask(neurons[0], torch.tensor([[True, False, True], [False, True, True]]))
    assert [existing_mask(neuron).tolist() for neuron in neurons] == [
        [[True, False, True], [False, True, True]],
        [[True, False], [True, True]],
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("transposed", [False, True])
def test_what_a_mask_leaves_out_becomes_0_whatever_it_was(dtype, transposed):
    x = torch.tensor([[1.0, -2.0, torch.nan], [torch.inf, -0.0, 3.5]]).to(dtype)
    mask = torch.tensor([[True, False, False], [False, True, True]])
    x, mask = (x.T, mask.T) if transposed else (x, mask)
    expected = torch.where(mask, x, torch.zeros_like(x))
    version = x._version
    zero_outside(x, mask)
    assert torch.equal(x, expected)
    assert x._version > version  # LpSGD sees by it that a weight was changed


def test_a_parameter_can_be_masked_in_place():
    weight = nn.Parameter(torch.ones(2, 3))
    zero_outside(weight, torch.eye(2, 3, dtype=torch.bool))
    assert torch.equal(weight, torch.eye(2, 3))
    assert weight.requires_grad


def test_the_largest_of_each_group_is_the_first_of_the_sorted():
    scores = torch.tensor([[0.5, 2.0, 2.0], [torch.nan, 1.0, torch.nan], [3.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    among = torch.tensor([[True, True, True], [True, True, True], [False, True, True], [False, False, False]])
    by_sorting = top_of_group(scores, among, torch.ones(4, dtype=torch.int64))
    assert torch.equal(top_of_group(scores, among, 1), by_sorting)
    assert by_sorting.int().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]
