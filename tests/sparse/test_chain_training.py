"""SparseChain in training: the gradients of its layers called one after another, in one call forward and one back."""

import copy
import os
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn

import lpsphere as lp
from lpsphere.kernels import LayerChain, products
from lpsphere.sparse import SparseChain, SparseLinear

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


def chain(*widths, dtype=torch.float64, bias=True, relu=None, density=0.3, empty=False):
    """Random layers; with ``empty``, every third neuron has no connections."""
    layers = []
    for seed, (features, neurons) in enumerate(pairwise(widths)):
        torch.manual_seed(seed)
        mask = torch.rand(neurons, features) < density
        if empty:
            mask[::3] = False
        layers.append(SparseLinear.from_dense(nn.Linear(features, neurons, bias=bias, dtype=dtype), mask))
    return SparseChain(layers, [True] * (len(layers) - 1) + [False] if relu is None else [relu] * len(layers))


def one_by_one(module, x):
    for layer, follows in zip(module.layers, module.relu, strict=True):
        x = layer(x).relu() if follows else layer(x)
    return x


def gradients(module, x, forward, toward=None):
    """The output, and the gradients of the input, if it needs one, and of everything that learns."""
    y = forward(x)
    toward = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape) if toward is None else toward
    wanted = [x] * x.requires_grad + [p for p in module.parameters() if p.requires_grad]
    return [y, *torch.autograd.grad(y, wanted, toward)]


def check(module, x, toward=None):
    expected = gradients(module, x, lambda x: one_by_one(module, x), toward)
    found = gradients(module, x, module, toward)
    tolerance = TOLERANCE[x.dtype]
    for one, other in zip(found, expected, strict=True):
        size = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * size)


@pytest.fixture
def calls(monkeypatch):
    """The names of the compiled calls of chains with gradients."""
    made = []

    def counted(name):
        run = getattr(LayerChain, name)
        monkeypatch.setattr(LayerChain, name, lambda self, *given: (made.append(name), run(self, *given))[1])

    counted("run_keeping")
    counted("run_back")
    return made


@pytest.mark.parametrize("wants_x", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [0, 1, 2, 7, 16, 33, 64, 65, 130, 200])
def test_gradients_are_those_of_the_layers(batch, dtype, wants_x, calls):
    check(chain(40, 70, 33, 5, dtype=dtype), torch.randn(batch, 40, dtype=dtype, requires_grad=wants_x))
    assert calls == ["run_keeping", "run_back"]


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("empty", [True, False])
def test_biases_activations_and_neurons_without_connections_are_as_they_are(empty, bias, relu):
    for batch in (1, 50):
        module = chain(20, 30, 17, 4, bias=bias, relu=relu, empty=empty)
        check(module, torch.randn(batch, 20, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("neurons", [1, 4, 5, 6, 13])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layers_without_gaps_are_computed_in_blocks_of_rows(neurons, dtype):
    for batch in (3, 8, 20, 100):
        check(chain(30, 20, neurons, dtype=dtype, density=1.0), torch.randn(batch, 30, dtype=dtype, requires_grad=True))


@settings(max_examples=40)
@given(
    widths=st.lists(st.integers(1, 90), min_size=2, max_size=5),
    batch=st.integers(0, 140),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    density=st.sampled_from([0.02, 0.3, 1.0]),
)
def test_any_sizes_will_do(widths, batch, dtype, density):
    check(chain(*widths, dtype=dtype, density=density), torch.randn(batch, widths[0], dtype=dtype, requires_grad=True))


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(20),
        torch.randn(3, 5, 20),
        torch.randn(20, 70).t(),
        torch.randn(70, 40)[:, ::2],
        torch.randn(20, 6, 2).permute(2, 1, 0),
        torch.randn(1, 20).expand(8, 20),
    ],
    ids=["1-D", "3-D", "feature-major", "strided", "permuted", "expanded"],
)
def test_an_input_of_any_shape_and_strides_will_do(x, calls):
    check(chain(20, 30, 4), x.double().requires_grad_())
    assert calls


def test_gradients_of_any_strides_will_do():
    module, x = chain(20, 30, 4), torch.randn(70, 20, dtype=torch.float64)
    for toward in (torch.randn(4, 70).t(), torch.randn(70, 8)[:, ::2], torch.ones(1, 1).expand(70, 4)):
        check(module, x, toward.double())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["input", "gradient", "weight"])
def test_what_is_not_finite_passes_as_through_the_layers(where, value):
    module, x = chain(20, 30, 4, relu=True), torch.randn(70, 20, dtype=torch.float64)
    toward = torch.randn(70, 4, dtype=torch.float64)
    if where == "weight":
        module.layers[0].weight.data[5] = value
    else:
        (x if where == "input" else toward)[66, 2] = value
    expected = gradients(module, x, lambda x: one_by_one(module, x), toward)
    for one, other in zip(gradients(module, x, module, toward), expected, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def frozen(module):
    module.layers[0].weight.requires_grad_(False)


def frozen_bias(module):
    module.layers[1].bias.requires_grad_(False)


def factors(module):
    module.layers[1].keep_factors(True)


def forward_hook(module):
    module.layers[0].register_forward_hook(lambda layer, inputs, output: 2 * output)


def backward_hook(module):
    module.layers[0].register_full_backward_hook(lambda layer, dx, dy: (None,))


def dense_layer(module):
    module.layers[1] = module.layers[1].to_dense()


@pytest.mark.parametrize("how", [frozen, frozen_bias, factors, forward_hook, backward_hook, dense_layer])
def test_what_asks_for_the_layers_gets_their_calls(how, calls):
    module, x = chain(20, 30, 4), torch.randn(5, 20, dtype=torch.float64)
    how(module)
    check(module, x)
    assert not calls


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one processor")
def test_several_threads_share_the_neurons_of_one_layer_after_another(monkeypatch, calls):
    module, x = chain(40, 70, 5), torch.randn(9, 40, dtype=torch.float64)
    monkeypatch.setattr(products, "_PARALLEL_WORK", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        check(module, x)
    finally:
        torch.set_num_threads(before)
    assert not calls


def test_gradients_add_up():
    module, x = chain(20, 30, 4), torch.randn(6, 20, dtype=torch.float64)
    module(x).square().sum().backward()
    once = [p.grad.clone() for p in module.parameters()]
    module(x).square().sum().backward()
    for parameter, gradient in zip(module.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient)


def test_it_may_be_called_twice_before_the_way_back():
    module, x = chain(20, 20), torch.randn(6, 20, dtype=torch.float64)
    check(module, x)
    found = torch.autograd.grad(module(module(x)).sum(), [*module.parameters()])
    expected = torch.autograd.grad(one_by_one(module, one_by_one(module, x)).sum(), [*module.parameters()])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_what_was_kept_may_have_moved_meanwhile():
    module, x = chain(20, 30, 4), torch.randn(6, 20, dtype=torch.float64)
    expected = gradients(module, x, module)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor.clone()):
        found = gradients(module, x, module)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("what", ["weight", "input", "structure"])
def test_changes_before_the_way_back_are_refused(what):
    module, x = chain(20, 30, 4), torch.randn(6, 20, dtype=torch.float64)
    loss = module(x).square().sum()
    with torch.no_grad():
        if what == "weight":
            module.layers[1].weight.mul_(2)
        elif what == "input":
            x.mul_(2)
        else:
            layer = module.layers[0]
            layer.set_structure(torch.arange(30), torch.arange(30) % 20, torch.ones(30, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradients_of_gradients_are_refused():
    module, x = chain(20, 30, 4), torch.randn(6, 20, dtype=torch.float64, requires_grad=True)
    (dx,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


@pytest.mark.parametrize("method", [lp.SemiPruning, lp.SET, lp.RigL, lp.Static])
def test_methods_train_it_as_its_layers(method, calls):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x) / 16, torch.tensor(y)
    sparse = chain(64, 48, 32, 10, density=0.1)
    layers = copy.deepcopy(list(sparse.layers))
    networks = [sparse, nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])]
    optimizers, topologies = [], []
    for network in networks:
        groups = lp.param_groups(network, p=1.2, lr=0.03, other_lr=0.1, radius="init")
        optimizers.append(lp.LpSGD(groups, momentum=0.9, nesterov=True))
        topologies.append(method(network, optimizers[-1], sparsity=0.9, total_steps=200, seed=3))
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        rows = torch.randint(len(x), (64,), generator=generator)
        for network, optimizer in zip(networks, optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    for one, other in zip(sparse.layers, layers, strict=True):
        assert torch.equal(one.columns, other.columns)
        assert torch.equal(one.row_pointers, other.row_pointers)
        torch.testing.assert_close(one.weight, other.weight, rtol=0, atol=1e-9)
    assert calls.count("run_back") >= 100
