import itertools
import re

import pytest
import torch
from small_networks import perceptron, sgd, train
from torch import nn

import lpsphere as lp

STEPS = 12
SIZES = (12, 40, 20, 16, 3)  # 480, 800 and 320 weights: 1600
METHODS = {
    "SET": (lp.SET, {"every": 1}),
    "RigL": (lp.RigL, {"every": 1}),
    "GMP": (lp.GMP, {"every": 1}),
    "Static": (lp.Static, {}),
    "SNIP": (lp.SNIP, {"ranking": "layer"}),
}
CONSTANT = ("SET", "RigL", "Static")


def attach(name, *rules, model=None, **changes):
    method, settings = METHODS[name]
    model = model or perceptron(sizes=SIZES)
    return method(model, sgd(model), **{"sparsity": 0.8, "total_steps": STEPS, "rules": rules, **settings, **changes})


def counts(topology):
    return [int(mask.sum()) for mask in topology.masks.values()]


def counts_at_every_step(topology):
    seen = [counts(topology)]
    for step in range(STEPS):
        train(topology.model, topology.optimizer, range(step, step + 1))
        seen.append(counts(topology))
    return seen


@pytest.mark.parametrize(
    ("rules", "changes", "expected"),
    [
        # 320 in all, 240 for the first; 80 over 800 and 320 weights are 57.1 and 22.9.
        ([lp.Rule("0", sparsity=0.5)], {}, [240, 57, 23]),
        # By sums of dimensions, 60 and 36, they are 50 and 30.
        ([lp.Rule("0", sparsity=0.5)], {"distribution": "erk"}, [240, 50, 30]),
        ([lp.Rule("6", sparsity=0)], {}, [0, 0, 320]),
        # 40 and 96 are fixed, which leaves 184 to the first.
        ([lp.Rule("3", sparsity=0.95), lp.Rule("6", sparsity=0.7)], {}, [184, 40, 96]),
        # One rule, two layers: 48 and 80, and 192 for the last.
        ([lp.Rule("[03]", sparsity=0.9)], {}, [48, 80, 192]),
        # The first rule that matches wins: 0 keeps 120, the others share 200 as 142.9 and 57.1.
        ([lp.Rule("0", sparsity=0.75), lp.Rule("[036].weight")], {}, [120, 143, 57]),
        # The dense layer is none of the 1280: 256, of which 80.
        ([lp.Rule("6", sparse=False), lp.Rule("3", sparsity=0.9)], {}, [176, 80]),
        ([lp.Rule(types=(nn.Linear,), sparsity=0.8)], {}, [96, 160, 64]),
        # The 16 neurons of the last layer need two connections each, so that the middle one has 80 - 32.
        ([lp.Rule("0", sparsity=0.5)], {"min_fan_in": 2}, [240, 48, 32]),
        # In blocks of four: 60 of 80, and 20 over 200 and 80 are 14.3 and 5.7.
        ([lp.Rule("0", sparsity=0.5)], {"granularity": "4x1"}, [240, 56, 24]),
    ],
)
@pytest.mark.parametrize("name", METHODS)
def test_a_rule_fixes_the_density_of_a_layer_and_the_others_share_the_rest(name, rules, changes, expected):
    topology = attach(name, *rules, **changes)
    seen = counts_at_every_step(topology)
    assert seen[-1] == expected
    assert topology.connections == sum(expected) == round(topology.weights * 0.2)
    if name in CONSTANT:
        assert seen == [expected] * (STEPS + 1)
    else:
        assert seen[0] == [mask.numel() for mask in topology.masks.values()]  # dense
    if name not in ("Static", "SNIP"):
        assert sum(event.dropped["3.weight"] for event in topology.events) > 0 or expected[1] == 0


def test_a_layer_of_fixed_density_starts_like_the_others_where_the_sparsity_climbs():
    topology = attach("GMP", lp.Rule("0", sparsity=0.5), lp.Rule("6", sparsity=0), initial_sparsity=0.3, sparsity=0.6)
    # At .3 the last layer is dense already: 800 for 480 and 800 weights. At .6 it is 240, 80 and 320.
    seen = counts_at_every_step(topology)
    assert seen[0] == [300, 500, 320]
    assert seen[-1] == [240, 80, 320]
    assert all(a >= b for old, new in itertools.pairwise(seen) for a, b in zip(old, new, strict=True))
    assert [count[2] for count in seen] == [320] * (STEPS + 1)


@pytest.mark.parametrize("name", METHODS)
def test_a_rule_holds_when_connections_are_kept(name):
    first = attach("Static", sparsity=0.4, model=perceptron(sizes=SIZES))
    first.detach()
    if name == "Static":
        topology = attach(name, lp.Rule("0", sparsity=0.4), sparsity=0.4, initial_sparsity="keep", model=first.model)
        assert counts(topology) == [288, 480, 192]
        return
    topology = attach(name, lp.Rule("0", sparsity=0.5), initial_sparsity="keep", model=first.model)
    seen = counts_at_every_step(topology)
    assert seen[0] == [288, 480, 192]
    assert seen[-1] == [240, 57, 23]


# Refused.


def refused(name, message, *rules, model=None, **changes):
    model = model or perceptron(sizes=SIZES)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        attach(name, *rules, model=model, **changes)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return str(error.value)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("rules", "sparsity", "fewest", "most", "asked", "lowest", "highest"),
    [
        ([lp.Rule("0", sparsity=0.2)], 0.8, "384", "1,504", "320", 0.06, 0.76),
        ([lp.Rule("3", sparsity=0.9)], 0.1, "80", "880", "1,440", 0.45, 0.95),
        # All layers fixed, at 96, 400 and 100, which is one sparsity and no other.
        (
            [lp.Rule("0", sparsity=0.8), lp.Rule("3", sparsity=0.5), lp.Rule("6", sparsity=0.6875)],
            0.6,
            "596",
            "596",
            "640",
            0.6275,
            0.6275,
        ),
    ],
)
def test_rules_that_leave_too_little_or_too_much_are_refused_with_the_range_that_is_feasible(
    name, rules, sparsity, fewest, most, asked, lowest, highest
):
    message = refused(
        name,
        f"^the sparsities of the rules leave {fewest} to {most} of 1,600 units, but sparsity {sparsity} of the network "
        f"asks for {asked}: pass one from {lowest} to {highest}, or change the rules$",
        *rules,
        sparsity=sparsity,
    )
    for text in re.search(r"pass one from (\S+) to (\S+),", message).groups():
        topology = attach(name, *rules, sparsity=float(text))
        train(topology.model, topology.optimizer, range(STEPS))
        assert topology.connections == round(1600 * (1 - float(text)))


def test_the_range_that_is_named_is_exact_in_a_large_network_too():
    model = nn.Sequential(nn.Linear(1733, 997), nn.Linear(997, 991), nn.Linear(991, 3))
    rules = [lp.Rule("0", sparsity=0.37), lp.Rule("1", sparsity=0.81)]
    message = refused("Static", "pass one from", *rules, model=model, sparsity=0.5)
    (text,) = set(re.search(r"pass one from (\S+) to (\S+),", message).groups())
    topology = attach("Static", *rules, model=model, sparsity=float(text))
    assert counts(topology) == [round(1733 * 997 * 0.63), round(997 * 991 * 0.19)]


@pytest.mark.parametrize("name", METHODS)
def test_a_rule_that_leaves_a_neuron_less_than_min_fan_in_is_refused_with_the_largest_that_is_feasible(name):
    message = refused(
        name,
        r"^Rule\(pattern='0'.*sparsity=0\.9\) asks for 48 of 480 units of 0\.weight, which can have 80 to 480: give it "
        r"a sparsity from 0 to 0\.8333333333, or change min_fan_in",
        lp.Rule("0", sparsity=0.9),
        min_fan_in=2,
    )
    largest = float(re.search(r"from 0 to (\S+),", message)[1])
    topology = attach(name, lp.Rule("0", sparsity=largest), min_fan_in=2)
    train(topology.model, topology.optimizer, range(STEPS))
    assert (topology.masks["0.weight"].sum(1) == 2).all()
    assert topology.connections == 320


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("sparsity", "message"),
    [
        (
            0.75,
            r"asks for 120 of 480 units of 0\.weight, which can have 240 to 480: give it a sparsity from 0 to 0\.5,",
        ),
        (0.25, "the sparsities of the rules leave 920 to 1,480 of 1,600 units, but sparsity 0.5 .* asks for 800"),
    ],
)
def test_a_rule_that_contradicts_a_pattern_is_refused(name, sparsity, message):
    refused(name, message, lp.Rule("0", sparsity=sparsity), sparsity=0.5, granularity="2:4")
    topology = attach(name, lp.Rule("0", sparsity=0.5), sparsity=0.5, granularity="2:4")
    train(topology.model, topology.optimizer, range(STEPS))
    assert counts(topology) == [240, 400, 160]


@pytest.mark.parametrize("name", METHODS)
def test_a_rule_that_asks_for_more_than_the_connections_that_are_kept_is_refused(name):
    first = attach("Static", lp.Rule("0", sparsity=0.75), sparsity=0.5)
    first.detach()
    refused(
        name,
        r"asks for 240 of 480 units of 0\.weight, which can have 0 to 120: give it a sparsity from 0\.75 to 1, or "
        "change min_fan_in, granularity or initial_sparsity",
        lp.Rule("0", sparsity=0.5),
        model=first.model,
        sparsity=0.5,
        initial_sparsity="keep",
    )


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (lp.SNIP, {}),
        (lp.SemiPruning, {}),
        (lp.SET, {"ranking": "network"}),
        (lp.RigL, {"ranking": "network"}),
        (lp.GMP, {"ranking": "network"}),
        (lp.SNIP, {"ranking": "network"}),
    ],
)
def test_methods_that_rank_the_network_refuse_a_rule_that_fixes_a_density(method, settings):
    model = perceptron(sizes=SIZES)
    with pytest.raises(
        ValueError,
        match=rf"sparsity=0\.5\) fixes a sparsity, but {method.__name__} ranks the connections of the whole network, "
        r'so that each layer finds its own: leave sparsity out of the rule, or pass ranking="layer"',
    ):
        method(model, sgd(model), sparsity=0.8, total_steps=9, rules=[lp.Rule("0", sparsity=0.5)], **settings)
    assert not hasattr(model[0], "weight_mask")
    method(model, sgd(model), sparsity=0.8, total_steps=9, rules=[lp.Rule("0")], **settings)


@pytest.mark.parametrize(
    "arguments",
    [
        {"sparsity": 1.0},
        {"sparsity": 1},
        {"sparsity": -0.1},
        {"sparsity": 1.5},
        {"sparsity": float("nan")},
        {"sparse": False, "sparsity": 0.5},
        {"sparse": False, "sparsity": 0},
    ],
)
def test_a_rule_with_a_sparsity_that_makes_no_sense_is_refused(arguments):
    with pytest.raises(
        ValueError, match=r"sparsity of the rule must be in \[0, 1\), and sparse not False; got"
    ) as error:
        lp.Rule("0", **arguments)
    assert str(error.value).endswith(f"got {arguments['sparsity']}")
    assert lp.Rule("0", sparsity=0).sparsity == 0


@pytest.mark.parametrize("wrong", ["0.5", True])
def test_a_sparsity_that_is_no_number_is_refused(wrong):
    with pytest.raises(TypeError, match=rf"sparsity of the rule must be a number in \[0, 1\), got {wrong!r}"):
        lp.Rule("0", sparsity=wrong)
