import pytest
import torch
from torch import nn

from lpsphere.sparse import FeatureMajorBatchNorm1d, SparseLinear


def feature_major(x):
    return x.t().contiguous().t()


def test_activations_and_gradients_stay_feature_major_through_a_network():
    net = nn.Sequential(
        SparseLinear(20, 30, sparsity=0.8),
        FeatureMajorBatchNorm1d(30),
        nn.ReLU(),
        SparseLinear(30, 30, sparsity=0.8, seed=1),
        nn.GELU(),
        nn.Dropout(0.1),
        SparseLinear(30, 5, sparsity=0.5),
    )
    strides = []
    for module in net[:-1]:
        module.register_forward_hook(lambda _, inputs, output: strides.append(output.stride()))
        module.register_full_backward_hook(lambda _, inputs, outputs: strides.append(outputs[0].stride()))
    net(torch.randn(16, 20, requires_grad=True)).square().sum().backward()
    assert strides == [(1, 16)] * 12


def test_the_next_layer_takes_an_output_without_a_copy():
    first, second = SparseLinear(20, 30, sparsity=0.8), SparseLinear(30, 10, sparsity=0.8)
    for shape in ((16, 20), (4, 4, 20)):
        kept = []
        between = first(torch.randn(shape))
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.data_ptr()), lambda t: t):
            second(between)
        assert between.data_ptr() in kept


def networks(width=7):
    torch.manual_seed(0)
    plain = nn.BatchNorm1d(width, dtype=torch.float64)
    with torch.no_grad():
        plain.weight.normal_()
        plain.bias.normal_()
    ours = FeatureMajorBatchNorm1d(width, dtype=torch.float64)
    ours.load_state_dict(plain.state_dict())
    return plain, ours


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [feature_major, torch.Tensor.contiguous])
def test_batch_normalisation_is_that_of_torch(layout, training):
    plain, ours = (norm.train(training) for norm in networks())
    x, weigh = torch.randn(9, 7, dtype=torch.float64) * 3 + 1, torch.randn(9, 7, dtype=torch.float64)
    found = []
    for norm in (plain, ours):
        given = layout(x).requires_grad_()
        y = norm(given)
        (y.sin() * layout(weigh)).sum().backward()
        found.append([y, given.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()])
    for expected, ours_ in zip(*found, strict=True):
        torch.testing.assert_close(ours_, expected)
    assert found[1][0].stride() == layout(x).stride()


def test_batch_normalisation_of_sequences_is_that_of_torch():
    plain, ours = networks()
    x = torch.randn(4, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x), plain(x))


def test_a_single_sample_has_no_spread_to_normalise_by():
    _, ours = networks()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ours(torch.randn(1, 7, dtype=torch.float64))
    with pytest.raises((ValueError, RuntimeError)):
        ours(feature_major(torch.randn(4, 6, dtype=torch.float64)))
