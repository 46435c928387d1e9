import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lpsphere.sparse import SparseLinear


def layer(sparsity=0.5, seed=0, in_features=6, out_features=4):
    return SparseLinear(in_features, out_features, sparsity=sparsity, seed=seed)


def tensors(*lists):
    return [torch.tensor(values) for values in lists]


@settings(max_examples=50)
@given(
    places=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 5))).flatmap(
        lambda places: st.permutations(sorted(places))
    ),
    kind=st.sampled_from([torch.int32, torch.int64]),
)
def test_connections_are_taken_in_any_order(places, kind):
    sparse = layer()
    rows, columns = (torch.tensor([place[i] for place in places], dtype=kind) for i in range(2))
    values = torch.arange(1.0, len(places) + 1)
    order = sparse.set_structure(rows, columns, values)
    expected = torch.zeros(4, 6)
    expected[rows.long(), columns.long()] = values
    assert torch.equal(sparse.to_dense().weight, expected)
    assert torch.equal(sparse.weight, values[order])
    assert torch.equal(sparse.rows, rows[order].int())
    assert torch.equal(sparse.columns, columns[order].int())
    x = torch.randn(3, 6)
    torch.testing.assert_close(sparse(x), sparse.to_dense()(x))


def test_the_parameter_stays_and_the_next_pass_has_the_new_structure():
    sparse, x = layer(), torch.randn(5, 6)
    weight, optimizer = sparse.weight, torch.optim.SGD(sparse.parameters(), lr=0.1)
    sparse(x).sum().backward()
    for rows, columns in (([0, 3], [5, 1]), ([1, 3], [5, 1]), ([0, 1, 2], [2, 2, 2])):
        version = weight._version
        sparse.set_structure(*tensors(rows, columns), torch.ones(len(rows)))
        assert sparse.weight is weight
        assert weight.shape == (len(rows),)
        assert weight.grad is None
        assert weight._version > version  # by which LpSGD sees that others have changed it
        torch.testing.assert_close(sparse(x), sparse.to_dense()(x))
        sparse(x).square().sum().backward()
        assert weight.grad.shape == weight.shape
        before = weight.detach().clone()
        optimizer.step()
        assert (weight != before).any()


def test_a_backward_pass_through_the_old_structure_is_refused():
    sparse, x = layer(), torch.randn(5, 6, requires_grad=True)
    y = sparse(x)
    sparse.set_structure(*tensors([0], [0]), torch.ones(1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_buffers_changed_in_place_are_noticed():
    sparse, x = layer(), torch.randn(5, 6)
    sparse.set_structure(*tensors([0, 1], [0, 1]), torch.ones(2))
    sparse(x)
    sparse.columns[0] = 4
    torch.testing.assert_close(sparse(x), sparse.to_dense()(x))
    sparse.columns[0] = 9
    with pytest.raises(ValueError, match="columns must be from 0 to 5"):
        sparse(x)


@pytest.mark.parametrize(
    ("rows", "columns", "values", "error", "message"),
    [
        (torch.tensor([0, 4]), torch.tensor([0, 1]), torch.ones(2), ValueError, "rows must be from 0 to 3, got 0 to 4"),
        (torch.tensor([0]), torch.tensor([-1]), torch.ones(1), ValueError, "columns must be from 0 to 5, got -1 to -1"),
        (torch.tensor([0, 1]), torch.tensor([0]), torch.ones(2), ValueError, "got 2 rows and 1 columns"),
        (torch.tensor([0, 1]), torch.tensor([0, 1]), torch.ones(3), ValueError, r"shape \(2,\), got \(3,\)"),
        (torch.tensor([1, 1]), torch.tensor([2, 2]), torch.ones(2), ValueError, "feature 2 to neuron 1 is given twice"),
        (torch.tensor([0.0]), torch.tensor([0]), torch.ones(1), TypeError, "rows must be an integer tensor, got torch"),
        (torch.tensor([0]), [0], torch.ones(1), TypeError, "columns must be an integer tensor, got list"),
        (torch.tensor([True]), torch.tensor([0]), torch.ones(1), TypeError, "mask.nonzero"),
        (torch.tensor([[0]]), torch.tensor([0]), torch.ones(1), ValueError, r"one dimension, .* got shape \(1, 1\)"),
        (torch.tensor([0]), torch.tensor([0]), torch.ones(1).int(), TypeError, "values must be a floating-point"),
        (torch.tensor([0]), torch.tensor([0]), [1.0], TypeError, "values must be a floating-point tensor, got list"),
    ],
)
def test_what_is_no_structure_is_refused_and_changes_nothing(rows, columns, values, error, message):
    sparse, x = layer(), torch.randn(5, 6)
    before = sparse(x)
    with pytest.raises(error, match=message):
        sparse.set_structure(rows, columns, values)
    assert torch.equal(sparse(x), before)


@pytest.mark.parametrize("sparsity", [0.5, 0.2, 0.8])
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_is_taken_over_with_its_structure(sparsity, assign):
    saved, fresh, x = layer(sparsity, seed=1), layer(), torch.randn(5, 6)
    fresh(x).sum().backward()
    weight = fresh.weight
    assert list(saved.state_dict()) == ["weight", "bias", "row_pointers", "columns"]
    result = fresh.load_state_dict(saved.state_dict(), assign=assign)
    assert result.missing_keys == result.unexpected_keys == []
    assert (fresh.weight is weight) != assign
    assert fresh.connections == saved.connections
    assert torch.equal(fresh(x), saved(x))
    fresh(x).sum().backward()
    assert fresh.weight.grad.shape == saved.weight.shape


@pytest.mark.parametrize("assign", [False, True])
def test_the_state_itself_is_not_changed(assign):
    state = {name: tensor.clone() for name, tensor in layer(0.2, seed=1).state_dict().items()}
    state["columns"] = state["columns"].long()
    given = dict(state)
    fresh = layer()
    fresh.load_state_dict(state, assign=assign)
    assert all(state[name] is given[name] for name in given)
    assert fresh.columns.dtype == torch.int32
    fresh.set_structure(*tensors([0], [0]), torch.zeros(1))
    assert state["weight"].shape == state["columns"].shape == (19,)


def test_a_pruned_network_is_saved_and_loaded_by_safetensors(tmp_path):
    def network(sparsity, seed):
        return nn.Sequential(layer(sparsity, seed), nn.ReLU(), layer(sparsity, seed + 1, 4, 3))

    saved, fresh, x = network(0.6, 5), network(0.2, 0), torch.randn(5, 6)
    safetensors.torch.save_model(saved, tmp_path / "model.safetensors")
    safetensors.torch.load_model(fresh, tmp_path / "model.safetensors")
    assert torch.equal(fresh(x), saved(x))
    assert [m.connections for m in (fresh[0], fresh[2])] == [m.connections for m in (saved[0], saved[2])]


def test_a_layer_without_connections_is_saved_and_loaded(tmp_path):
    saved, fresh, x = layer(), layer(), torch.randn(5, 6)
    saved.set_structure(torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64), torch.tensor([]))
    safetensors.torch.save_model(saved, tmp_path / "model.safetensors")
    safetensors.torch.load_model(fresh, tmp_path / "model.safetensors")
    assert fresh.connections == 0
    assert torch.equal(fresh(x), fresh.bias.expand(5, 4))


def changed(**given):
    state = layer(seed=1).state_dict()
    for name, tensor in given.items():
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    return state


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("state", "message"),
    [
        (nn.Linear(6, 4).state_dict(), r"dense weight of shape \(4, 6\).*SparseLinear.from_dense"),
        (changed(columns=None), "no columns: weights mean nothing without their structure"),
        (changed(columns=None, row_pointers=None), "no row_pointers and no columns"),
        (changed(weight=None), "no weight"),
        (layer(in_features=3, out_features=8).state_dict(), "has 8 neurons, the layer 4"),
        (changed(weight=torch.ones(5)), r"do not fit each other: weight \(5,\), columns \(12,\), and 12"),
        (layer(in_features=60).state_dict(), "connections from feature 5., and the layer has 6"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state, message, strict):
    net, x = nn.Sequential(layer()), torch.randn(5, 6)
    before = net(x)
    with pytest.raises(RuntimeError, match=f"0 is a SparseLinear: .*{message}"):
        net.load_state_dict({f"0.{name}": tensor for name, tensor in state.items()}, strict=strict)
    assert torch.equal(net(x), before)


def test_a_missing_layer_is_reported_as_torch_does():
    with pytest.raises(RuntimeError, match="Missing key"):
        layer().load_state_dict({})
    assert layer().load_state_dict({}, strict=False).missing_keys == ["weight", "bias", "row_pointers", "columns"]
