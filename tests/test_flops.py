import pytest
import torch
from torch import nn

from lpsphere.flops import LayerCost, inference_flops, layer_costs, training_flops
from lpsphere.models import WideResNet
from lpsphere.sparse import SparseLinear


def test_each_weight_counts_as_often_as_it_is_used():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 8x8 -> 4x4
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=4),
        nn.ConvTranspose2d(8, 5, 2, stride=2),  # 4x4 -> 8x8
        nn.Flatten(),
        nn.Linear(5 * 64, 10),
    )
    costs = layer_costs(model, torch.randn(6, 3, 8, 8))
    assert costs == {
        "0.weight": LayerCost(8 * 3 * 9, 16),
        "2.weight": LayerCost(8 * 2 * 9, 16),
        "3.weight": LayerCost(8 * 5 * 4, 16),
        "5.weight": LayerCost(3200, 1),
    }
    assert inference_flops(costs, {}) == 2 * 16 * (216 + 144 + 160) + 2 * 3200


def test_a_layer_that_is_used_twice_costs_twice_and_one_that_is_not_reached_nothing():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(self.layer(x))

    assert layer_costs(Twice(), torch.randn(3, 4)) == {"layer.weight": LayerCost(16, 2)}


def test_attention_counts_its_projections_for_every_token():
    class Attention(nn.Module):
        def __init__(self, **settings):
            super().__init__()
            self.attend = nn.MultiheadAttention(6, 2, batch_first=True, **settings)

        def forward(self, x):
            context = torch.zeros(len(x), 7, self.attend.kdim)
            return self.attend(x, key=context, value=context)[0]

    assert layer_costs(Attention(), torch.randn(2, 5, 6)) == {
        "attend.in_proj_weight": LayerCost(108, (5 + 7 + 7) / 3),
        "attend.out_proj.weight": LayerCost(36, 5),
    }
    assert layer_costs(Attention(kdim=4, vdim=4), torch.randn(2, 5, 6)) == {
        "attend.q_proj_weight": LayerCost(36, 5),
        "attend.k_proj_weight": LayerCost(24, 7),
        "attend.v_proj_weight": LayerCost(24, 7),
        "attend.out_proj.weight": LayerCost(36, 5),
    }


def test_a_layer_that_holds_only_its_connections_is_counted_by_them():
    model = nn.Sequential(
        SparseLinear(8, 6, sparsity=0.75), nn.ReLU(), SparseLinear(6, 5, sparsity=0.5), nn.Linear(5, 2)
    )
    costs = layer_costs(model, torch.randn(3, 7, 8))
    assert costs == {
        "0.weight": LayerCost(48, 7, held=12),
        "2.weight": LayerCost(30, 7, held=15),
        "3.weight": LayerCost(10, 7),
    }
    assert inference_flops(costs, {}) == 2 * 7 * (12 + 15 + 10)
    assert inference_flops(costs, {"0.weight": 6}) == 2 * 7 * (6 + 15 + 10)
    assert training_flops(costs, steps=4, batch_size=2) == 4 * 2 * 3 * inference_flops(costs, {})


def test_the_gradient_of_all_weights_of_a_sparse_layer_costs_as_much_as_a_dense_one():
    cost = training_flops({"a": LayerCost(100, 1, held=10)}, steps=5, batch_size=1, dense_gradients=[3])
    assert cost == 5 * 3 * 20 + 2 * (100 - 10)


def test_looking_leaves_the_model_as_it_was():
    model = WideResNet((1, 1, 1), 4)
    model.stem.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layer_costs(model, torch.randn(2, 1, 8, 8))
    assert model.training
    assert not model.stem.bn.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_cost_of_a_residual_network_is_that_of_its_convolutions():
    model = WideResNet((1, 1, 1), 4, in_channels=1, out_features=10)
    by_hand = 28 * 28 * 9 * (16 + 16 * 4 + 4 * 4) + 28 * 28 * 16 * 4  # stem, first stage and its shortcut
    by_hand += 14 * 14 * (9 * (4 * 8 + 8 * 8) + 4 * 8) + 7 * 7 * (9 * (8 * 16 + 16 * 16) + 8 * 16) + 16 * 10
    assert inference_flops(layer_costs(model, torch.randn(1, 1, 28, 28)), {}) == 2 * by_hand


COSTS = {"a": LayerCost(100, 1), "b": LayerCost(10, 5)}


def test_inference_is_in_proportion_to_the_connections():
    assert inference_flops(COSTS, {"a": 30}) == 2 * 30 + 2 * 50
    assert inference_flops(COSTS, {"a": 30, "b": 1}) == 2 * 30 + 2 * 5


def test_dense_training_costs_three_passes():
    assert training_flops(COSTS, steps=7, batch_size=4) == 7 * 4 * 3 * 300


def test_training_adds_up_over_the_updates_and_pays_dense_gradients_in_full():
    cost = training_flops(
        COSTS,
        steps=10,
        batch_size=2,
        connections=[(0, {"a": 50}), (4, {"a": 20}), (9, {"a": 10})],
        dense_gradients=[4, 9],
    )
    sparse = 4 * (100 + 100) + 5 * (40 + 100) + 1 * (20 + 100)
    dense_gradients = 2 * (100 - 50) + 2 * (100 - 20)
    assert cost == 2 * (3 * sparse + dense_gradients)


@pytest.mark.parametrize("steps", [0, 3])
def test_updates_after_the_last_step_cost_nothing(steps):
    whole = training_flops(COSTS, steps=steps, batch_size=1, connections=[(0, {"a": 50})])
    assert training_flops(COSTS, steps=steps, batch_size=1, connections=[(0, {"a": 50}), (5, {"a": 1})]) == whole
