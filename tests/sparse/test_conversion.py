import pytest
import torch
from torch import nn

import lpsphere as lp
from lpsphere.sparse import SparseLinear


def dense(bias=True, **kind):
    torch.manual_seed(0)
    return nn.Linear(12, 8, bias=bias, **kind)


MASK = torch.arange(96).view(8, 12) % 5 == 0


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_dense_layer_is_taken_over_and_given_back(bias, dtype):
    linear = dense(bias, dtype=dtype)
    sparse = SparseLinear.from_dense(linear, MASK)
    back = sparse.to_dense()
    assert type(back) is nn.Linear
    assert torch.equal(back.weight, linear.weight * MASK)
    assert (back.bias is None) == (not bias)
    assert not bias or torch.equal(back.bias, linear.bias)
    assert sparse.connections == int(MASK.sum())
    assert sparse.weight.dtype == back.weight.dtype == dtype
    assert list(back.state_dict()) == list(linear.state_dict())


def test_without_a_mask_the_weights_that_are_not_zero_are_taken():
    linear = dense()
    with torch.no_grad():
        linear.weight.mul_(MASK)
        linear.weight[0, 0] = -0.0
    assert SparseLinear.from_dense(linear).connections == int(MASK.sum()) - 1


def test_the_mask_of_a_topology_method_is_taken_with_its_zero_weights():
    net = nn.Sequential(dense(), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    topology = lp.Static(net, optimizer, sparsity=0.75, total_steps=10)
    mask = topology.masks["0.weight"]
    row, column = mask.nonzero()[0].tolist()
    with torch.no_grad():
        net[0].weight[row, column] = 0
    sparse = SparseLinear.from_dense(net[0])
    assert sparse.connections == int(mask.sum()) == 24
    assert sparse.weight[0] == 0
    x = torch.randn(5, 12)
    torch.testing.assert_close(sparse(x), net[0](x))
    assert SparseLinear.from_dense(net[0], mask=torch.ones_like(mask)).connections == 96


def test_copies_share_no_memory():
    linear = dense()
    sparse = SparseLinear.from_dense(linear, MASK)
    back = sparse.to_dense()
    before = sparse.weight.detach().clone()
    with torch.no_grad():
        for parameter in (*linear.parameters(), *back.parameters()):
            parameter.zero_()
    assert torch.equal(sparse.weight, before)
    assert sparse.bias.any()


def test_frozen_layers_and_the_mode_stay_as_they_are():
    linear = dense().eval()
    linear.weight.requires_grad_(False)
    sparse = SparseLinear.from_dense(linear, MASK)
    back = sparse.to_dense()
    for layer in (sparse, back):
        assert not layer.training
        assert not layer.weight.requires_grad
        assert layer.bias.requires_grad


def test_conversions_draw_no_random_numbers():
    linear, state = dense(), torch.get_rng_state()
    SparseLinear.from_dense(linear, MASK).to_dense()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_subclass_stays_one():
    class Named(SparseLinear):
        pass

    assert type(Named.from_dense(dense())) is Named


@pytest.mark.parametrize(
    ("linear", "mask", "error", "message"),
    [
        (nn.Conv1d(3, 4, 1), None, TypeError, "takes an nn.Linear, got Conv1d"),
        (nn.Linear(12, 8), MASK.float(), TypeError, "must be a bool tensor, got torch.float32: mask != 0 makes one"),
        (nn.Linear(12, 8), [True], TypeError, "must be a bool tensor, got list"),
        (nn.Linear(12, 8), MASK.t(), ValueError, r"shape \(8, 12\), got \(12, 8\)"),
        (nn.Linear(12, 8, dtype=torch.complex64), None, TypeError, "got torch.complex64"),
    ],
)
def test_what_cannot_be_converted_is_refused(linear, mask, error, message):
    with pytest.raises(error, match=message):
        SparseLinear.from_dense(linear, mask)
