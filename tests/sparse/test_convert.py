import pytest
import torch
from torch import nn

import lpsphere as lp
from lpsphere.sparse import SparseLinear, sparsify


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, 16), nn.ReLU(), nn.Sequential(nn.Linear(16, 12, bias=False), nn.ReLU()), nn.Linear(12, 3)
    )


def test_every_linear_layer_but_the_last_becomes_sparse():
    model = network().eval()
    assert sparsify(model, 0.75) is model
    assert [type(module) for module in (model[0], model[2][0], model[3])] == [SparseLinear, SparseLinear, nn.Linear]
    assert (model[0].connections, model[2][0].connections) == (80, 48)
    assert model[2][0].bias is None
    assert not model[0].training
    assert model(torch.randn(5, 20)).shape == (5, 3)
    assert isinstance(sparsify(network(), 0.5, include_last=True)[3], SparseLinear)


def test_layers_of_one_shape_start_differently_and_by_the_seed():
    layers = [
        sparsify(nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, 2)), 0.5, seed=s) for s in (0, 0, 1)
    ]
    assert torch.equal(layers[0][0].weight, layers[1][0].weight)
    assert not torch.equal(layers[0][0].weight, layers[0][1].weight)
    assert not torch.equal(layers[0][0].weight, layers[2][0].weight)


def test_rules_choose_layers_and_their_sparsity():
    rules = [lp.Rule("0", sparsity=0.5), lp.Rule("2.*", sparse=False)]
    model = sparsify(network(), 0.9, rules=rules)
    assert model[0].connections == 160
    assert isinstance(model[2][0], nn.Linear)
    with pytest.raises(ValueError, match="matches nothing"):
        sparsify(network(), 0.9, rules=[lp.Rule("nothing")])


def test_without_a_sparsity_the_connections_that_exist_are_taken_over():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lp.Static(model, optimizer, sparsity=0.8, total_steps=10)
    x = torch.randn(5, 20)
    expected = model(x)
    connections = int(model[0].weight_mask.sum())
    sparsify(model)
    assert model[0].connections == connections
    torch.testing.assert_close(model(x), expected)


def test_a_layer_in_two_places_stays_one_layer():
    shared = nn.Linear(9, 9)
    model = sparsify(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(9, 2)), 0.5)
    assert model[0] is model[2]
    assert isinstance(model[0], SparseLinear)


def test_a_layer_alone_is_replaced_by_what_is_returned():
    assert isinstance(sparsify(nn.Linear(9, 4), 0.5), SparseLinear)


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(ValueError, match=r"Sequential has no nn\.Linear to make sparse"):
        sparsify(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), 0.5)


def test_projections_within_attention_stay_dense():
    model = nn.Sequential(nn.Linear(6, 6), nn.MultiheadAttention(6, 2), nn.Linear(6, 2))
    sparsify(model, 0.5)
    assert isinstance(model[0], SparseLinear)
    assert not isinstance(model[1].out_proj, SparseLinear)


def test_a_network_is_built_sparse_and_trained_sparse():
    model = sparsify(network(), 0.75)
    optimizer = lp.LpSGD(lp.param_groups(model, p=1.2, lr=0.03, other_lr=0.1, radius="init"), momentum=0.9)
    topology = lp.SET(model, optimizer, sparsity=0.75, total_steps=20, initial_sparsity="keep")
    for step in range(20):
        optimizer.zero_grad()
        torch.manual_seed(step)
        nn.functional.cross_entropy(model(torch.randn(16, 20)), torch.randint(3, (16,))).backward()
        optimizer.step()
    assert len(topology.events) == 15
    assert topology.finalize()[0].connections == 80
