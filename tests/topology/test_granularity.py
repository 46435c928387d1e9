import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import Rows, copies, lpsgd, perceptron, sgd, still
from torch import nn

import lpsphere as lp
from lpsphere.neurons import NeuronLayout, NeuronWeight, select
from lpsphere.topology.granularity import Granularity

STEPS = 12
CONSTANT = {"SET": partial(lp.SET, every=1), "RigL": partial(lp.RigL, every=1), "Static": lp.Static}
CLIMBING = {"SNIP": lp.SNIP, "GMP": partial(lp.GMP, every=1), "SemiPruning": partial(lp.SemiPruning, every=1)}
METHODS = {**CONSTANT, **CLIMBING}


def network():
    """Fan-ins of 16, 32 and 8: a grouped convolution, a grouped transposed one and a Linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (8, 2, 2)),
        nn.Conv2d(8, 16, 2, padding=1, groups=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 2, groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 3),
    )


def trained(method, check=None, make=sgd, **changes):
    model = network()
    optimizer = make(model)
    topology = method(model, optimizer, total_steps=STEPS, **changes)
    if check is not None:
        topology.on_update(lambda event: check(topology))
        check(topology)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x, y = torch.randn(16, 32, generator=generator), torch.randint(0, 3, (16,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if check is not None:
            check(topology)
    return model, topology


def masks(topology):
    return [mask.int().tolist() for mask in topology.masks.values()]


# Parsing.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("weight", Granularity()),
        ("2:4", Granularity(pattern=(2, 4))),
        ("1:16", Granularity(pattern=(1, 16))),
        ("4x1", Granularity(block=(4, 1))),
        ("16x32", Granularity(block=(16, 32))),
    ],
)
def test_what_is_parsed_is_written_in_the_same_way(text, expected):
    granularity = Granularity.parse(text)
    assert granularity == expected
    assert str(granularity) == text


def test_blocks_of_one_weight_are_weights():
    assert str(Granularity.parse("1x1")) == "weight"
    assert Granularity.parse("1x1") == Granularity.parse("weight")


@pytest.mark.parametrize(
    "text",
    [
        *("2:2", "4:2", "0:4", "2:0", "02:4", "2:4:8", "2:4x1", "4x", "x4", ":4", "-1x2", "0x2", "4X1", "2/4", "2: 4"),
        *(" 2:4", "2:4\n", "2.0:4", "weights", "Weight", "", None, 4, 0.5, (2, 4), b"2:4"),
    ],
)
def test_what_is_neither_weight_nor_pattern_nor_block_is_refused(text):
    with pytest.raises(ValueError, match=r'"weight", N of .* "2:4" \(N < M\), or blocks of .* "4x1"; got') as refused:
        Granularity.parse(text)
    assert str(refused.value).endswith(f"got {text!r}")
    model = perceptron()
    with pytest.raises(ValueError, match="granularity must be"):
        lp.RigL(model, sgd(model), sparsity=0.5, total_steps=10, granularity=text)
    assert not hasattr(model[0], "weight_mask")


# Grids.


@st.composite
def neurons_and_granularities(draw):
    """A weight of one of three kinds, and a granularity that divides it."""
    kind = draw(st.sampled_from(["linear", "conv", "transposed"]))
    outputs, inputs, groups = (draw(st.sampled_from([1, 2, 3, 4, 6])) for _ in range(3))
    if kind == "linear":
        module = nn.Linear(inputs, outputs)
        layout = NeuronLayout()
    else:
        kernel = draw(st.sampled_from([(1, 1), (2, 1), (2, 3)]))
        cls = nn.Conv2d if kind == "conv" else nn.ConvTranspose2d
        module = cls(inputs * groups, outputs * groups, kernel, groups=groups)
        layout = NeuronLayout() if kind == "conv" else NeuronLayout(neuron_dim=1, groups=groups)
    neuron = NeuronWeight("weight", module, "weight", layout)
    divisors = [[d for d in range(1, n + 1) if n % d == 0] for n in (neuron.neurons, neuron.fan_in)]
    group = draw(st.sampled_from(divisors[1]))
    if group > 1 and draw(st.booleans()):
        return neuron, Granularity(pattern=(draw(st.integers(1, group - 1)), group))
    return neuron, Granularity(block=(draw(st.sampled_from(divisors[0])), group))


def rows_by_hand(module, values):
    """Each neuron's weights in order, from the definition of the three kinds of layers."""
    if not isinstance(module, nn.ConvTranspose2d):
        return [values[neuron].flatten() for neuron in range(len(values))]
    inputs, outputs = module.in_channels // module.groups, module.out_channels // module.groups
    return [
        values[group * inputs : (group + 1) * inputs, output].flatten()
        for group in range(module.groups)
        for output in range(outputs)
    ]


@settings(max_examples=300, deadline=None)
@given(case=neurons_and_granularities(), seed=st.integers(0, 10**6))
def test_grid_and_spread_are_inverses_and_units_are_runs_or_blocks_of_a_neurons_weights(case, seed):
    neuron, granularity = case
    groups, length = granularity.shape(neuron)
    assert groups * length == granularity.units(neuron)
    assert granularity.units(neuron) * granularity.unit == neuron.weight.numel()
    generator = torch.Generator().manual_seed(seed)
    units = torch.rand(groups, length, generator=generator) < 0.5
    mask = granularity.spread(neuron, units)
    assert mask.shape == neuron.weight.shape
    assert mask.dtype == torch.bool
    assert torch.equal(granularity.grid(neuron, mask), units)
    assert int(mask.sum()) == int(units.sum()) * granularity.unit

    scores = torch.randn(neuron.weight.shape, generator=generator, dtype=torch.float64)
    grid = granularity.grid(neuron, scores)
    assert grid.shape == units.shape
    rows, mask_rows = torch.stack(rows_by_hand(neuron.module, scores)), rows_by_hand(neuron.module, mask)
    if granularity.pattern is not None:
        many = granularity.pattern[1]
        runs = [row[i : i + many] for row in rows for i in range(0, len(row), many)]
        assert torch.equal(grid, torch.stack(runs))
        assert torch.equal(torch.stack(mask_rows).view(-1, many), units)
        return
    tall, wide = granularity.block
    for i, j in itertools.product(range(groups), range(length)):
        block = rows[i * tall : (i + 1) * tall, j * wide : (j + 1) * wide]
        torch.testing.assert_close(grid[i, j], block.mean(), rtol=1e-12, atol=1e-12)
        assert all(
            (row[j * wide : (j + 1) * wide] == units[i, j]).all() for row in mask_rows[i * tall : (i + 1) * tall]
        )


@settings(max_examples=100, deadline=None)
@given(case=neurons_and_granularities(), min_fan_in=st.integers(0, 5))
def test_the_fewest_units_are_as_few_as_leave_every_neuron_its_connections(case, min_fan_in):
    neuron, granularity = case
    groups, length = granularity.shape(neuron)
    few = granularity.fewest_in_group(neuron, min_fan_in)
    assert granularity.fewest(neuron, min_fan_in) == groups * few
    if granularity.pattern is not None:
        assert few == granularity.pattern[0]
        return

    def fan_in(units):
        return units * granularity.block[1]

    assert min(fan_in(length), min_fan_in) <= fan_in(few)
    assert few == 0 or fan_in(few - 1) < min_fan_in


# Patterns.


def counts_in_runs(topology, many):
    runs = [neuron.layout.to_rows(topology.masks[neuron.name]).reshape(-1, many) for neuron in topology.layers]
    return torch.cat([run.sum(1) for run in runs])


@pytest.mark.parametrize("make", [sgd, lpsgd])
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8"])
@pytest.mark.parametrize("name", CONSTANT)
def test_methods_of_constant_sparsity_hold_the_pattern_from_the_first_mask_on(name, pattern, make):
    few, many = map(int, pattern.split(":"))
    seen = []

    def check(topology):
        assert (counts_in_runs(topology, many) == few).all()
        assert all((neuron.weight[~topology.masks[neuron.name]] == 0).all() for neuron in topology.layers)
        seen.append(copies(topology.masks))

    _, topology = trained(CONSTANT[name], check, make, sparsity=1 - few / many, granularity=pattern)
    assert topology.connections == 640 * few // many
    updates = 0 if name == "Static" else 9
    assert len(topology.events) == updates
    assert len(seen) == 1 + STEPS + updates
    moved = {n: not torch.equal(mask, seen[0][n]) for n, mask in topology.masks.items()}
    assert moved == dict.fromkeys(moved, name != "Static")


@pytest.mark.parametrize("make", [sgd, lpsgd])
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8"])
@pytest.mark.parametrize("name", CLIMBING)
def test_methods_whose_sparsity_climbs_end_with_the_pattern_and_never_have_less(name, pattern, make):
    few, many = map(int, pattern.split(":"))
    seen = []

    def check(topology):
        counts = counts_in_runs(topology, many)
        assert (counts >= few).all()
        seen.append(int(counts.sum()))

    model, topology = trained(CLIMBING[name], check, make, sparsity=1 - few / many, granularity=pattern)
    assert (counts_in_runs(topology, many) == few).all()
    assert seen[0] == (512 if name == "SemiPruning" else 640)
    assert seen[-1] == topology.connections == 640 * few // many
    assert seen == sorted(seen, reverse=True)
    for neuron in topology.layers:
        assert (neuron.weight[~topology.masks[neuron.name]] == 0).all()
    topology.finalize()
    runs = torch.cat([neuron.layout.to_rows(neuron.weight.detach()).reshape(-1, many) for neuron in select(model)])
    assert ((runs != 0).sum(1) == few).all()


def test_pruning_to_a_pattern_keeps_the_largest_of_every_run():
    model = Rows([[4.0, -1.0, 0.5, 3.0, 0.1, 0.2, -0.3, 0.4], [9.0, 9.5, 8.0, 7.0, 1.0, -5.0, 5.5, 0.0]])
    topology = lp.GMP(model, still(model), sparsity=0.5, total_steps=1, granularity="2:4")
    model.set_gradients([[1.0] * 8] * 2)
    topology.optimizer.step()
    assert masks(topology) == [[[1, 0, 0, 1, 0, 0, 1, 1], [1, 1, 0, 0, 0, 1, 1, 0]]]


def test_what_grows_goes_where_the_pattern_has_room():
    # int(.6 * 6) = 3 go: .1 and .2 of the second run, 1 of the first. The first has room for one, of |g| 2; the second
    # for two, of |g| 9, which comes back, and 8; the third, which lost nothing, for none, although it has 50.
    model = Rows([[4.0, 1.0, 0.0, 0.0, 0.2, 0.1, 0.0, 0.0, 3.0, 0.0, 2.0, 0.0]])
    topology = lp.RigL(
        model,
        still(model),
        sparsity=0.5,
        initial_sparsity="keep",
        total_steps=10,
        drop_fraction=0.6,
        granularity="2:4",
    )
    model.set_gradients([[99.0, 0.5, -2.0, 1.0, 9.0, 1.0, -8.0, 7.0, 99.0, 50.0, 99.0, -50.0]])
    topology.optimizer.step()
    assert masks(topology) == [[[1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]]]
    assert model.a.weight.tolist() == torch.tensor([[4.0, 0, 0, 0, 0.2, 0, 0, 0, 3.0, 0, 2.0, 0]]).tolist()


# Blocks.


def blocks(topology, tall, wide):
    """Every block of every layer, as a row of its weights' mask."""
    found = []
    for neuron in topology.layers:
        rows = neuron.layout.to_rows(topology.masks[neuron.name])
        grid = rows.unflatten(1, (-1, wide)).unflatten(0, (-1, tall))
        found.append(grid.transpose(1, 2).reshape(-1, tall * wide))
    return found


@pytest.mark.parametrize("make", [sgd, lpsgd])
@pytest.mark.parametrize("sparsity", [0.5, 0.77])
@pytest.mark.parametrize("block", ["4x1", "2x2"])
@pytest.mark.parametrize("name", METHODS)
def test_blocks_exist_or_not_as_a_whole_and_their_counts_are_exact(name, block, sparsity, make):
    tall, wide = map(int, block.split("x"))
    seen = []

    def check(topology):
        found = torch.cat(blocks(topology, tall, wide))
        assert torch.equal(found.any(1), found.all(1))
        assert found.shape == (160, 4)
        seen.append(int(found.all(1).sum()))

    _, topology = trained(METHODS[name], check, make, sparsity=sparsity, granularity=block)
    target = round(160 * (1 - sparsity))
    assert topology.connections == 4 * target
    assert seen[-1] == target
    if name in CONSTANT:
        assert set(seen) == {target}
    else:
        assert seen[0] == (128 if name == "SemiPruning" else 160)
    if name in ("SET", "RigL", "SemiPruning"):
        grown = [sum(event.regrown.values()) for event in topology.events]
        assert sum(grown) > 0
        assert all(count % 4 == 0 for count in grown)


def test_blocks_are_ranked_by_the_mean_of_their_weights():
    # Means 2, 2.5 and 1; the largest weight is in the first block, the second largest in the third.
    model = Rows([[8.0, 0.0, 2.0, 3.0, 4.0, 0.0], [0.0, 0.0, 3.0, 2.0, 0.0, 0.0]])
    topology = lp.GMP(model, still(model), sparsity=2 / 3, total_steps=1, granularity="2x2")
    model.set_gradients([[1.0] * 6] * 2)
    topology.optimizer.step()
    assert masks(topology) == [[[0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0]]]
    assert topology.events[0].dropped == {"a.weight": 8}
    assert topology.events[0].threshold == 2


def test_blocks_grow_where_the_mean_gradient_is_largest():
    # Columns of two neurons. int(.5 * 2) = 1 goes, the first; |g| has means 2, -, 3, 2.5.
    model = Rows([[1.0, 3.0, 0.0, 0.0], [2.0, 1.0, 0.0, 0.0]])
    topology = lp.RigL(
        model,
        still(model),
        sparsity=0.5,
        initial_sparsity="keep",
        total_steps=10,
        drop_fraction=0.5,
        granularity="2x1",
    )
    model.set_gradients([[4.0, 9.0, -3.0, 5.0], [0.0, 9.0, 3.0, 0.0]])
    topology.optimizer.step()
    assert masks(topology) == [[[0, 1, 1, 0], [0, 1, 1, 0]]]


@pytest.mark.parametrize("name", METHODS)
def test_every_neuron_keeps_its_connections_in_blocks_too(name):
    _, topology = trained(METHODS[name], sparsity=0.8, granularity="2x2", min_fan_in=1)
    assert all(neuron.layout.to_rows(topology.masks[neuron.name]).any(1).all() for neuron in topology.layers)
    assert topology.connections == 4 * 32


# Errors.


def refused(method, message, model=None, **changes):
    model = model or network()
    optimizer = sgd(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        method(model, optimizer, total_steps=STEPS, **changes)
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not optimizer._optimizer_step_pre_hooks
    return model


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("pattern", "wrong", "right"),
    [("2:4", 0.9, "0.5"), ("1:4", 0.25, "0.75"), ("1:8", 0.87, "0.875"), ("1:3", 0.66, "0.6666666667")],
)
def test_a_sparsity_that_is_not_the_patterns_is_refused_with_the_one_to_pass(name, pattern, wrong, right):
    model = nn.Sequential(nn.Linear(24, 8), nn.Linear(8, 3))
    refused(
        METHODS[name],
        rf"^{pattern} means sparsity {right} in every layer: pass sparsity={right}$",
        model,
        sparsity=wrong,
        granularity=pattern,
    )
    topology = METHODS[name](model, sgd(model), total_steps=10, sparsity=float(right), granularity=pattern)
    for layer in model:
        layer.weight.grad = torch.randn_like(layer.weight)
    for _ in range(10):
        topology.optimizer.step()
    few, many = map(int, pattern.split(":"))
    assert (counts_in_runs(topology, many) == few).all()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("granularity", "sparsity", "layer", "has"),
    [
        ("1:3", 2 / 3, "1", "16 neurons of 16"),
        ("8:16", 0.5, "9", "16 neurons of 8"),
        ("1x32", 0.5, "1", "16 neurons of 16"),
        ("16x1", 0.5, "1", "16 neurons of 16"),
    ],
)
def test_a_layer_that_the_granularity_does_not_divide_is_named_with_the_rule_that_leaves_it_out(
    name, granularity, sparsity, layer, has
):
    refused(
        METHODS[name],
        rf"^{granularity} does not divide {layer}\.weight, which has {has} weights( in 2 groups)?: leave it dense with "
        rf"Rule\('{layer}', sparse=False\), or choose another granularity$",
        sparsity=sparsity,
        granularity=granularity,
    )


def test_leaving_the_layer_out_by_that_rule_lets_the_others_follow_the_pattern():
    rules = [lp.Rule("9", sparse=False)]
    model, topology = trained(lp.RigL, sparsity=0.5, granularity="8:16", rules=rules)
    assert (counts_in_runs(topology, 16) == 8).all()
    assert list(topology.masks) == ["1.weight", "4.weight"]
    assert (model[9].weight != 0).all()


@pytest.mark.parametrize("method", [lp.SET, lp.RigL])
def test_a_pattern_that_holds_from_the_start_refuses_another_initial_sparsity(method):
    refused(
        method,
        r"^2:4 holds from the start: leave initial_sparsity=0\.2 out$",
        sparsity=0.5,
        initial_sparsity=0.2,
        granularity="2:4",
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_pattern_that_leaves_a_neuron_less_than_min_fan_in_is_refused(name):
    refused(
        METHODS[name],
        r"^2:4 leaves 4 connections to each neuron of 9\.weight, fewer than min_fan_in=5: pass min_fan_in=4 or less$",
        sparsity=0.5,
        min_fan_in=5,
        granularity="2:4",
    )
    _, topology = trained(METHODS[name], sparsity=0.5, min_fan_in=4, granularity="2:4")
    assert min(int(n.layout.to_rows(topology.masks[n.name]).sum(1).min()) for n in topology.layers) == 4


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("made_by", "asked", "sparsity"),
    [("weight", "2:4", 0.5), ("4:8", "2:4", 0.5), ("weight", "2x2", 0.5), ("4x1", "2x2", 0.7), ("2x2", "1:4", 0.75)],
)
def test_keeping_connections_of_another_granularity_is_refused(name, made_by, asked, sparsity):
    model, topology = trained(lp.Static, sparsity=sparsity if asked != "1:4" else 0.6, granularity=made_by)
    topology.detach()
    refused(
        METHODS[name],
        rf'^the connections of 1\.weight are not {asked}: leave initial_sparsity="keep" out, or use the granularity '
        "that made them$",
        model,
        sparsity=sparsity,
        granularity=asked,
        initial_sparsity="keep",
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("granularity", "sparsity"), [("2:4", 0.5), ("4x1", 0.7), ("2x2", 0.7)])
def test_keeping_connections_of_the_same_granularity_goes_on_from_them(name, granularity, sparsity):
    model, first = trained(lp.SET, sparsity=sparsity, granularity=granularity)
    before = copies(first.masks)
    first.detach()
    topology = METHODS[name](
        model, sgd(model), sparsity=sparsity, total_steps=STEPS, granularity=granularity, initial_sparsity="keep"
    )
    assert all(torch.equal(mask, before[n]) for n, mask in topology.masks.items())
    assert topology.initial_sparsity == first.sparsity


@pytest.mark.parametrize("name", CLIMBING)
def test_keeping_more_connections_than_a_pattern_needs_is_a_start_for_methods_that_climb(name):
    model, first = trained(lp.Static, sparsity=0.5, granularity="2:4")
    first.detach()
    topology = METHODS[name](
        model, sgd(model), sparsity=0.75, total_steps=STEPS, granularity="1:4", initial_sparsity="keep"
    )
    for _ in range(STEPS):
        for neuron in select(model):
            neuron.weight.grad = torch.randn_like(neuron.weight)
        topology.optimizer.step()
    assert (counts_in_runs(topology, 4) == 1).all()


def test_blocks_do_not_straddle_the_groups_of_a_convolution():
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=4, bias=False))  # two neurons to a group
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(
        ValueError, match=r"4x1 does not divide 0\.weight, which has 8 neurons of 18 weights in 4 groups"
    ):
        lp.Static(model, optimizer, sparsity=0.5, total_steps=1, granularity="4x1")
    assert lp.Static(model, optimizer, sparsity=0.5, total_steps=1, granularity="2x1").sparsity == 0.5
