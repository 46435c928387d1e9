import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import lpsphere as lp
from lpsphere.theory import expected_hoyer


def on_spheres(*params, p=1.5, radius=2.0, **settings):
    return lp.LpSGD([{"params": list(params), "p": p, "radius": radius}], lr=0.1, **settings)


def linear(rows, dtype=torch.float64):
    layer = nn.Linear(len(rows[0]), len(rows), bias=False, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows, dtype=dtype))
    return layer


def hoyer_by_hand(values, n):
    values = np.abs(np.array(values, dtype=float))
    return (math.sqrt(n) - values.sum() / math.sqrt((values**2).sum())) / (math.sqrt(n) - 1)


def masked_layer():
    """Neurons with 4, 2, 2 (one of weight 0), 2 (both of weight 0), 1 and 0 connections."""
    layer = linear([[1, -2, 3, 4], [0, 1, 0, 3], [5, 0, 0, 0], [0, 0, 0, 0], [0, -2, 0, 0], [0, 0, 0, 0]])
    mask = [[1, 1, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0], [1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]
    layer.register_buffer("weight_mask", torch.tensor(mask, dtype=torch.bool))
    return layer


# Summary.


def test_figures_of_a_masked_layer_are_over_its_connections():
    (row,) = lp.summary(masked_layer()).layers
    assert (row.layer, row.neurons, row.fan_in, row.p) == ("weight", 6, 4, None)
    assert row.connections == 11
    assert row.density == 11 / 24
    assert row.dead == 2  # no connection, or all weights 0
    assert row.single == 1
    first, second, third = hoyer_by_hand([1, 2, 3, 4], 4), hoyer_by_hand([1, 3], 2), 1.0
    assert row.hoyer == pytest.approx((first + second + third) / 3, rel=1e-12)  # the third has one of two at 0
    full = [first, hoyer_by_hand([1, 3], 4), 1.0, 1.0]
    assert row.hoyer_full == pytest.approx(sum(full) / 4, rel=1e-12)
    assert row.hoyer_predicted is None
    assert row.sphere_error is None


def test_the_prediction_is_for_the_number_of_connections_of_the_same_neurons():
    layer = masked_layer()
    optimizer = on_spheres(layer.weight, p=1.3, radius="init")
    (row,) = lp.summary(layer, optimizer).layers
    assert row.p == 1.3
    assert row.hoyer_predicted == pytest.approx((expected_hoyer(1.3, 4) + 2 * expected_hoyer(1.3, 2)) / 3, rel=1e-12)


def test_without_masks_connections_are_the_weights_that_are_not_zero():
    layer = linear([[1, -2, 3, 4], [0, 1, 0, 3], [0, -2, 0, 0], [0, 0, 0, 0]])
    (row,) = lp.summary(layer).layers
    assert row.connections == 7
    assert (row.dead, row.single) == (1, 1)
    assert row.hoyer == pytest.approx((hoyer_by_hand([1, 2, 3, 4], 4) + hoyer_by_hand([1, 3], 2)) / 2)


def test_the_sphere_error_is_the_largest_distance_of_a_norm_from_the_radius():
    layer = linear([[3.0, 4.0, 0.0], [1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    optimizer = on_spheres(layer.weight, p=2.0, radius=2.0)
    assert lp.summary(layer, optimizer).layers[0].sphere_error < 1e-14  # the dead neuron is not 2 away
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([[1.25], [0.7], [1.0]], dtype=torch.float64))
    assert lp.summary(layer, optimizer).layers[0].sphere_error == pytest.approx(0.6, rel=1e-12)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(5, 4),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ConvTranspose2d(4, 6, 3),
        nn.ConvTranspose1d(4, 6, 3, groups=2),
    ],
    ids=["linear", "grouped conv", "transposed", "grouped transposed"],
)
def test_with_radius_init_each_neuron_is_compared_with_its_own_norm(layer):
    torch.manual_seed(0)
    with torch.no_grad():
        layer.weight.copy_(
            torch.randn_like(layer.weight) * torch.linspace(1, 5, layer.weight.numel()).view_as(layer.weight)
        )
    optimizer = lp.LpSGD(lp.param_groups(layer, p=1.3, lr=0.1, other_lr=0.1, radius="init"))
    assert lp.summary(layer, optimizer).layers[0].sphere_error < 1e-4
    with torch.no_grad():
        layer.weight.mul_(1.5)
    largest = float(optimizer.state[layer.weight]["radius"].max())
    assert lp.summary(layer, optimizer).layers[0].sphere_error == pytest.approx(0.5 * largest, rel=1e-5)


def test_single_neurons_and_dead_ones_have_no_hoyer():
    layer = linear([[1.0, 0.0], [0.0, 0.0]])
    (row,) = lp.summary(layer, on_spheres(layer.weight)).layers
    assert row.hoyer is row.hoyer_predicted is None
    assert row.hoyer_full == 1.0
    layer = linear([[0.0, 0.0]])
    (row,) = lp.summary(layer, on_spheres(layer.weight)).layers
    assert row.hoyer_full is row.sphere_error is None


def test_totals_are_over_the_layers():
    model = nn.Sequential(linear([[1, 0, 2], [0, 0, 3]]), nn.BatchNorm1d(2), linear([[1, 1], [0, 2]]), linear([[1, 1]]))
    table = lp.summary(model)
    assert [row.layer for row in table.layers] == ["0.weight", "2.weight"]
    assert (table.weights, table.connections, table.parameters) == (10, 6, 16)
    assert table.sparsity == 1 - 6 / 10
    with_last = lp.summary(model, include_last=True)
    assert [row.layer for row in with_last.layers] == ["0.weight", "2.weight", "3.weight"]
    assert (with_last.weights, with_last.connections) == (12, 8)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
    )


def optimizer_for(model, **settings):
    return lp.LpSGD(lp.param_groups(model, p=1.2, lr=0.02, other_lr=0.1, **settings), momentum=0.9)


@pytest.mark.parametrize("include_last", [False, True])
@pytest.mark.parametrize("rules", [None, [lp.Rule("0", sparse=False)], [lp.Rule("3", p=None)]])
def test_the_sparsity_is_the_topologys_before_and_after_finalize(rules, include_last):
    model = network()
    optimizer = optimizer_for(model, rules=rules)
    topology = lp.SemiPruning(
        model, optimizer, sparsity=0.5, initial_sparsity=0.5, total_steps=9, rules=rules, include_last=include_last
    )
    table = lp.summary(model, optimizer, rules=rules, include_last=include_last)
    assert table.sparsity == topology.sparsity
    assert (table.connections, table.weights) == (topology.connections, topology.weights)
    topology.finalize()
    assert lp.summary(model, optimizer, rules=rules, include_last=include_last).to_dict() == table.to_dict()


def test_an_output_layer_on_a_sphere_is_shown_but_does_not_count():
    model = network()
    optimizer = optimizer_for(model, include_last=True, radius="init")
    topology = lp.SemiPruning(model, optimizer, sparsity=0.5, initial_sparsity=0.5, total_steps=9)
    table = lp.summary(model, optimizer)
    assert [(row.layer, row.p, row.sparse) for row in table.layers] == [
        ("0.weight", 1.2, True),
        ("3.weight", 1.2, True),
        ("5.weight", 1.2, False),
    ]
    assert table.sparsity == topology.sparsity


def test_an_output_layer_with_a_mask_is_shown_and_counts():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    topology = lp.SemiPruning(model, optimizer, sparsity=0.5, initial_sparsity=0.5, total_steps=9, include_last=True)
    table = lp.summary(model, optimizer)
    assert [row.layer for row in table.layers] == ["0.weight", "3.weight", "5.weight"]
    assert table.sparsity == topology.sparsity


def test_a_layer_that_a_rule_keeps_dense_is_shown_but_does_not_count():
    rules = [lp.Rule("*", sparse=False)]
    model = network()
    table = lp.summary(model, rules=rules)
    assert [row.sparse for row in table.layers] == [False, False]
    assert (table.weights, table.connections, table.sparsity) == (0, 0, 0.0)


def test_layers_that_only_rules_make_possible_are_shown_by_the_same_rules():
    model = nn.Sequential(nn.Embedding(5, 6), weight_norm(nn.Linear(6, 4)), nn.Linear(4, 4), nn.Linear(4, 2))
    rules = [lp.Rule("1", p=None, sparse=False), lp.Rule(types=(nn.Embedding,))]
    optimizer = optimizer_for(model, rules=rules, radius="init")
    with pytest.raises(ValueError, match="computed by a parametrization"):
        lp.summary(model, optimizer)
    assert [row.layer for row in lp.summary(model, optimizer, rules=rules).layers] == ["0.weight", "2.weight"]
    model(torch.tensor([1, 2])).sum().backward()
    assert [row.layer for row in lp.stationarity(model, optimizer, rules=rules).layers] == ["0.weight", "2.weight"]


def test_a_summary_changes_nothing():
    model = network()
    optimizer = optimizer_for(model)
    lp.SemiPruning(model, optimizer, sparsity=0.5, total_steps=9)
    versions = [param._version for param in model.parameters()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lp.summary(model, optimizer)
    assert [param._version for param in model.parameters()] == versions
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_half_precision_is_measured_in_double():
    layer = nn.Linear(300, 2, bias=False).to(torch.bfloat16)
    (row,) = lp.summary(layer).layers
    weights = layer.weight.detach().double()
    assert row.hoyer_full == pytest.approx(sum(hoyer_by_hand(w.tolist(), 300) for w in weights) / 2, rel=1e-12)


def test_a_model_without_neurons_is_refused():
    with pytest.raises(ValueError, match="BatchNorm1d has no trainable Linear, Conv or ConvTranspose weight to select"):
        lp.summary(nn.BatchNorm1d(3))


def test_the_table_has_a_line_for_each_layer_and_the_totals():
    layer = masked_layer()
    optimizer = on_spheres(layer.weight, p=1.3, radius=1.0)
    text = str(lp.summary(nn.Sequential(layer, nn.BatchNorm1d(6), nn.Linear(6, 2)), optimizer))
    header, row, total = text.splitlines()
    assert header.split("  ")[0] == "layer"
    for word in (
        "neurons",
        "fan-in",
        "p",
        "density",
        "Hoyer",
        "predicted",
        "full row",
        "| ||w||_p - r |",
        "dead",
        "single",
    ):
        assert f"  {word}" in header
    cells = row.split()
    assert cells[:5] == ["0.weight", "6", "4", "1.3", "0.4583"]
    assert cells[-2:] == ["2", "1"]
    assert len(cells) == 11
    assert total == "sparsity 0.5417: 11 of 24 selected weights are connections; 50 parameters in all"
    bare = str(lp.summary(layer)).splitlines()[1].split()
    assert [bare[3], bare[6], bare[8]] == ["-", "-", "-"]  # p, predicted, distance


def test_a_summary_becomes_plain_values_for_json():
    model = network()
    optimizer = optimizer_for(model)
    table = lp.summary(model, optimizer)
    values = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert values["sparsity"] == 0
    assert values["connections"] == values["selected_weights"] == 6 * 8 + 8 * 8
    assert values["parameters"] == sum(param.numel() for param in model.parameters())
    assert [row["layer"] for row in values["layers"]] == ["0.weight", "3.weight"]
    assert values["layers"][0]["hoyer_predicted"] == pytest.approx(expected_hoyer(1.2, 6))


# Stationarity.


def independent(w, g, p, r):
    """One neuron, written from the method with plain sums."""
    q = p / (p - 1)
    inner = sum(g * w)
    multiplier = -inner / r
    size = sum(np.abs(g) ** q) ** (1 / q)
    residual = sum(np.abs(g + multiplier * np.sign(w) * np.abs(w / r) ** (p - 1)) ** q) ** (1 / q)
    return multiplier, residual, residual / size, -inner / (r * size), r * size + inner


@pytest.mark.parametrize("radius", [1.0, 2.5, "init"])
@pytest.mark.parametrize("p", [1.2, 1.5, 3.0])
def test_stationarity_agrees_with_an_independent_computation(p, radius):
    torch.manual_seed(0)
    layer = nn.Linear(7, 5, bias=False, dtype=torch.float64)
    layer.register_buffer("weight_mask", torch.rand(5, 7) < 0.6)
    layer.weight_mask[:, :2] = True
    with torch.no_grad():
        layer.weight.mul_(layer.weight_mask)
    optimizer = on_spheres(layer.weight, p=p, radius=radius)
    gradient = torch.randn(5, 7, dtype=torch.float64)
    layer.weight.grad = gradient.clone()
    (found,) = lp.stationarity(layer, optimizer).layers
    assert found.layer == "weight"
    assert torch.equal(layer.weight.grad, gradient)  # dense as it was
    for i in range(5):
        mask = layer.weight_mask[i].numpy()
        w, g = layer.weight[i].detach().numpy()[mask], gradient[i].numpy()[mask]
        r = float(optimizer.state[layer.weight]["radius"][i]) if radius == "init" else radius
        figures = [found.multiplier, found.residual, found.relative_residual, found.alignment, found.gap]
        assert [float(figure[i]) for figure in figures] == pytest.approx(independent(w, g, p, r), rel=1e-9)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("p", [1.05, 1.3, 2.0, 3.0])
def test_at_a_stationary_point_the_residual_vanishes_for_either_sign_of_the_multiplier(p, sign):
    torch.manual_seed(0)
    layer = nn.Linear(9, 4, bias=False, dtype=torch.float64)
    optimizer = on_spheres(layer.weight, p=p, radius=2.0)
    v = lp.geometry.dual(layer.weight.detach() / 2, p)
    layer.weight.grad = -sign * 3.0 * v  # g + lambda v = 0
    (found,) = lp.stationarity(layer, optimizer).layers
    ones = torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(found.multiplier, sign * 3.0 * ones)
    torch.testing.assert_close(found.residual, 0 * ones)
    torch.testing.assert_close(found.relative_residual, 0 * ones)
    torch.testing.assert_close(found.alignment, sign * ones)
    torch.testing.assert_close(found.gap, (0.0 if sign > 0 else 2 * 2.0 * 3.0) * ones)


def test_a_linear_loss_is_stationary_where_lpsgd_ends():
    torch.manual_seed(0)
    layer = nn.Linear(6, 3, bias=False, dtype=torch.float64)
    optimizer = on_spheres(layer.weight, p=1.5, radius=1.0)
    slope = torch.randn(3, 6, dtype=torch.float64)
    residuals = []
    for _ in range(300):
        layer.weight.grad = slope.clone()
        residuals.append(float(lp.stationarity(layer, optimizer).layers[0].relative_residual.max()))
        optimizer.step()
    assert residuals[0] > 0.1
    assert residuals[-1] < 1e-10
    assert float(lp.stationarity(layer, optimizer).layers[0].alignment.min()) == pytest.approx(1)


def test_a_neuron_without_gradient_counts_as_stationary_and_a_tiny_gradient_does_not_underflow():
    layer = linear([[1.0, 2.0, -3.0], [1.0, 2.0, -3.0], [0.0, 0.0, 0.0]])
    optimizer = on_spheres(layer.weight, p=1.05)
    layer.weight.grad = torch.tensor([[0.0] * 3, [1e-30, -2e-30, 1e-30], [1.0, 2.0, 3.0]], dtype=torch.float64)
    (found,) = lp.stationarity(layer, optimizer).layers
    assert found.relative_residual[0] == found.residual[0] == found.gap[0] == 0
    assert 0.1 < found.relative_residual[1] <= 2
    assert -1 <= found.alignment[1] <= 1
    assert all(figure.isfinite().all() for figure in (found.multiplier, found.residual, found.alignment, found.gap))
    assert found.relative_residual[2] == 1  # a dead neuron: nothing but the gradient


def test_only_weights_on_spheres_that_have_a_gradient_are_listed():
    model = network()
    optimizer = optimizer_for(model, rules=[lp.Rule("3", p=None)])
    model(torch.randn(4, 6)).square().sum().backward()
    assert [layer.layer for layer in lp.stationarity(model, optimizer).layers] == ["0.weight"]


def test_a_scale_invariant_layer_has_gradients_orthogonal_to_its_weights():
    model = network().double()
    optimizer = optimizer_for(model)
    x, y = torch.randn(20, 6, dtype=torch.float64), torch.arange(20) % 3
    model[1].eps = model[4].eps = 1e-30
    nn.functional.cross_entropy(model(x), y).backward()
    first, second = lp.stationarity(model, optimizer).layers
    for layer in (first, second):
        assert layer.alignment.abs().max() < 1e-9
        torch.testing.assert_close(layer.relative_residual, torch.ones_like(layer.residual))


def test_the_table_shows_the_worst_neuron_of_each_layer():
    layer = linear([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    optimizer = on_spheres(layer.weight, p=2.0, radius=1.0)
    layer.weight.grad = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [-3.0, 4.0]], dtype=torch.float64)
    header, row = str(lp.stationarity(layer, optimizer)).splitlines()
    assert header.split()[:3] == ["layer", "lambda", "(mean)"]
    assert "|alignment| (min)" in header
    # An alignment of -1, the first neuron's, is a stationary point too; its gap is that of the opposite pole.
    assert row.split() == ["weight", "1.000e+00", "4.000e+00", "8.000e-01", "0.600000", "4.000e+00"]


def test_without_gradients_or_spheres_stationarity_is_refused():
    model = network()
    with pytest.raises(ValueError, match=r"no weight on a sphere has a gradient: call this after backward\(\)"):
        lp.stationarity(model, optimizer_for(model))
    model(torch.randn(4, 6)).sum().backward()
    with pytest.raises(ValueError, match="no weight on a sphere has a gradient"):
        lp.stationarity(model, torch.optim.SGD(model.parameters(), lr=0.1))
