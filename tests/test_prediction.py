import json
import math

import pytest
import torch
from torch import nn

import lpsphere as lp
from lpsphere.theory import expected_hoyer, hoyer_std, weak_fraction


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 6),
        nn.LayerNorm(6),
        nn.Linear(6, 2),
    )


def optimizer_for(model, p=1.2, **settings):
    return lp.LpSGD(lp.param_groups(model, p=p, lr=0.02, other_lr=0.1, **settings))


def masked_layer():
    """Neurons with 4, 2, 2, 1 and 0 connections."""
    layer = nn.Linear(4, 5, bias=False)
    mask = [[1, 1, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    layer.register_buffer("weight_mask", torch.tensor(mask, dtype=torch.bool))
    return layer


def test_a_dense_layer_has_the_figures_of_the_theory():
    first, second = lp.predict(network(), 1.3, threshold=0.4).layers
    assert (first.layer, first.neurons, first.fan_in, first.p, first.connections) == ("0.weight", 8, 27, 1.3, 27)
    assert first.hoyer == pytest.approx(expected_hoyer(1.3, 27), rel=1e-14)
    assert first.hoyer_std == pytest.approx(hoyer_std(1.3, 27), rel=1e-14)
    assert first.weak_fraction == second.weak_fraction == weak_fraction(1.3, 0.4)
    assert (second.layer, second.neurons, second.fan_in) == ("4.weight", 6, 32)
    assert second.hoyer == pytest.approx(expected_hoyer(1.3, 32), rel=1e-14)


def test_the_values_of_the_weights_do_not_count():
    model = network()
    before = lp.predict(model, 1.3)
    with torch.no_grad():
        model[0].weight.pow_(3)
        model[4].weight.zero_()  # as some networks start
    assert lp.predict(model, 1.3) == before


def test_a_masked_layer_is_averaged_over_its_neurons_with_two_connections_or_more():
    (row,) = lp.predict(masked_layer(), 1.3).layers
    assert (row.neurons, row.fan_in) == (5, 4)
    assert row.connections == pytest.approx(8 / 3, rel=1e-14)
    mean = (expected_hoyer(1.3, 4) + 2 * expected_hoyer(1.3, 2)) / 3
    assert row.hoyer == pytest.approx(mean, rel=1e-14)
    second_moment = sum(hoyer_std(1.3, n) ** 2 + expected_hoyer(1.3, n) ** 2 for n in (4, 2, 2)) / 3
    assert row.hoyer_std == pytest.approx(math.sqrt(second_moment - mean**2), rel=1e-10)


def test_the_spread_is_that_of_neurons_of_several_sizes():
    layer = nn.Linear(60, 20_000, bias=False, dtype=torch.float64)
    torch.manual_seed(0)
    mask = torch.ones_like(layer.weight, dtype=torch.bool)
    mask[::2, 5:] = False
    layer.register_buffer("weight_mask", mask)
    k = torch.full(layer.weight.shape, 0.4 * (1.5 - 1), dtype=torch.float64)
    rows = torch.distributions.Gamma(k, 1.0).sample().sqrt() * mask
    values = lp.theory.hoyer(rows, mask.sum(-1))
    (row,) = lp.predict(layer, 1.5).layers
    assert float(values.std()) == pytest.approx(row.hoyer_std, rel=0.02)
    within = math.sqrt((hoyer_std(1.5, 5) ** 2 + hoyer_std(1.5, 60) ** 2) / 2)
    assert row.hoyer_std > 1.05 * within  # the difference between the sizes counts
    assert float(values.mean()) == pytest.approx(row.hoyer, abs=4 * row.hoyer_std / math.sqrt(20_000))


def test_without_a_mask_the_connections_are_the_weights_that_are_not_zero():
    layer = masked_layer()
    expected = lp.predict(layer, 1.3)
    with torch.no_grad():
        layer.weight.mul_(layer.weight_mask)
    del layer.weight_mask
    assert lp.predict(layer, 1.3) == expected


def test_it_is_what_the_summary_calls_predicted():
    model = network()
    optimizer = optimizer_for(model, rules=[lp.Rule("4", p=1.4)])
    topology = lp.SET(model, optimizer, sparsity=0.7, total_steps=10)
    predicted, measured = lp.predict(model, optimizer=optimizer), lp.summary(model, optimizer)
    assert [row.p for row in predicted.layers] == [1.2, 1.4]
    assert [row.hoyer for row in predicted.layers] == pytest.approx([row.hoyer_predicted for row in measured.layers])
    assert predicted.layers[0].connections < 27
    topology.finalize()
    assert lp.predict(model, optimizer=optimizer) == predicted


def test_rules_choose_the_exponent_where_there_is_no_optimizer():
    rules = [lp.Rule("0", p=1.5), lp.Rule("6", p=None)]
    table = lp.predict(network(), 1.2, rules=rules, include_last=True)
    assert [(row.layer, row.p) for row in table.layers] == [("0.weight", 1.5), ("4.weight", 1.2), ("6.weight", None)]
    last = table.layers[-1]
    assert (last.hoyer, last.hoyer_std, last.weak_fraction, last.connections) == (None, None, None, 6)


def test_with_an_optimizer_its_groups_decide_and_not_the_rules():
    model = network()
    optimizer = optimizer_for(model, rules=[lp.Rule("4", p=None)])
    rows = lp.predict(model, optimizer=optimizer, rules=[lp.Rule("0", p=1.5), lp.Rule("4", p=1.5)]).layers
    assert [row.p for row in rows] == [1.2, None]


def test_an_output_layer_on_a_sphere_is_shown():
    model = network()
    table = lp.predict(model, optimizer=optimizer_for(model, include_last=True, radius="init"))
    assert [row.layer for row in table.layers] == ["0.weight", "4.weight", "6.weight"]
    assert [row.layer for row in lp.predict(model, optimizer=optimizer_for(model)).layers] == ["0.weight", "4.weight"]


def test_a_layer_without_two_connections_in_a_neuron_has_no_prediction():
    layer = masked_layer()
    layer.weight_mask[:, 1:] = False
    (row,) = lp.predict(layer, 1.3).layers
    assert row.connections is row.hoyer is row.hoyer_std is None


def test_it_prints_a_table():
    text = str(lp.predict(network(), 1.2, rules=[lp.Rule("4", p=None)]))
    first = f"{expected_hoyer(1.2, 27):.3f}   {hoyer_std(1.2, 27):.3f}       {weak_fraction(1.2, 0.2):.3f}"
    assert text.splitlines() == [
        "layer     neurons  fan-in  connections    p  Hoyer  spread  weak < 0.2",
        f"0.weight        8      27           27  1.2  {first}",
        "4.weight        6      32           32    -      -       -           -",
    ]


def test_large_numbers_of_connections_are_shown_whole():
    assert "12,345" in str(lp.predict(nn.Linear(12345, 2), 1.2)).splitlines()[1].split()[3]
    assert str(lp.predict(masked_layer(), 1.2)).splitlines()[1].split()[3] == "2.667"


def test_it_goes_to_json():
    values = json.loads(json.dumps(lp.predict(network(), 1.2).to_dict()))
    assert values["threshold"] == 0.2
    assert values["layers"][0]["hoyer"] == pytest.approx(expected_hoyer(1.2, 27))


def test_it_changes_nothing():
    model = network()
    optimizer = optimizer_for(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lp.predict(model, optimizer=optimizer)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(param.grad is None for param in model.parameters())


def test_p_or_the_optimizer_is_needed_but_not_both():
    model = network()
    with pytest.raises(ValueError, match=r"needs p, such as 1\.2, or the optimizer that holds it: got neither"):
        lp.predict(model)
    with pytest.raises(ValueError, match="got both"):
        lp.predict(model, 1.2, optimizer_for(model))


def test_a_network_without_spheres_is_refused():
    model = network()
    with pytest.raises(ValueError, match="none of the selected weights is on a sphere"):
        lp.predict(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="none of the selected weights is on a sphere"):
        lp.predict(model, 1.2, rules=[lp.Rule("*", p=None)])


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="p must be finite and greater than 1, got 1"):
        lp.predict(network(), 1)
    with pytest.raises(TypeError, match=r"p must be a number greater than 1, got 'auto'"):
        lp.predict(network(), "auto")
    with pytest.raises(ValueError, match="threshold must be positive and finite, got 0"):
        lp.predict(network(), 1.2, threshold=0)
    with pytest.raises(ValueError, match="has no trainable Linear"):
        lp.predict(nn.ReLU(), 1.2)
    with pytest.raises(ValueError, match="correct its pattern or types"):
        lp.predict(network(), 1.2, rules=[lp.Rule("nothing")])


def test_an_optimizer_in_the_place_of_p_is_explained():
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = lp.LpSGD(lp.param_groups(model, 1.2, lr=0.02, other_lr=0.1))
    with pytest.raises(TypeError, match=r"got an optimizer: pass it as optimizer=\.\.\."):
        lp.predict(model, optimizer)
