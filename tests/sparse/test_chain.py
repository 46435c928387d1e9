"""SparseChain: what its layers give one after another, in one call where no gradient is wanted."""

import copy
import math
import os
import pickle
import sys
import threading
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lpsphere as lp
from lpsphere.kernels import LayerChain, products
from lpsphere.sparse import SparseChain, SparseLinear

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2}


def chain(*widths, dtype=torch.float32, bias=True, relu=None, empty=False, frozen=True):
    """Random layers; with ``empty``, every third neuron has no connections."""
    layers = []
    for seed, (given_features, neurons) in enumerate(pairwise(widths)):
        torch.manual_seed(seed)
        linear = nn.Linear(given_features, neurons, bias=bias, dtype=dtype)
        mask = torch.rand(neurons, given_features) < 0.3
        if empty:
            mask[::3] = False
        layers.append(SparseLinear.from_dense(linear, mask))
    follows = [True] * (len(layers) - 1) + [False] if relu is None else [relu] * len(layers)
    return SparseChain(layers, follows).requires_grad_(not frozen)


def one_by_one(module, x):
    for layer, follows in zip(module.layers, module.relu, strict=True):
        x = layer.to_dense()(x)
        x = x.relu() if follows else x
    return x


def check(module, x):
    kind = module.layers[0].weight.dtype
    with torch.no_grad():
        expected = one_by_one(module, x)
        found = module(x)
    size = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found, expected, rtol=TOLERANCE[kind], atol=TOLERANCE[kind] * size)


@pytest.fixture
def calls(monkeypatch):
    """How often the compiled chain has run."""
    made = []
    run = LayerChain.run
    monkeypatch.setattr(LayerChain, "run", lambda self, *given: (made.append(given), run(self, *given))[1])
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("batch", [0, 1, 2, 7, 16, 63, 64, 65, 128, 1000])
def test_it_gives_what_its_layers_give(batch, dtype):
    check(chain(40, 70, 33, 5, dtype=dtype), torch.randn(batch, 40, dtype=dtype))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("empty", [True, False])
def test_biases_activations_and_neurons_without_connections_are_as_they_are(empty, bias, relu):
    for batch in (1, 50):
        check(chain(20, 30, 17, 4, bias=bias, relu=relu, empty=empty), torch.randn(batch, 20))


@settings(max_examples=30)
@given(
    widths=st.lists(st.integers(1, 90), min_size=2, max_size=5),
    batch=st.integers(0, 140),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_sizes_will_do(widths, batch, dtype):
    check(chain(*widths, dtype=dtype), torch.randn(batch, widths[0], dtype=dtype))


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(20),
        torch.randn(3, 5, 20),
        torch.randn(0, 5, 20),
        torch.randn(20, 70).t(),
        torch.randn(1, 40)[:, ::2],
        torch.randn(70, 40)[:, ::2],
        torch.randn(20, 6, 2).permute(2, 1, 0),
        torch.randn(1, 20).expand(8, 20),
    ],
    ids=["1-D", "3-D", "3-D empty", "feature-major", "strided sample", "strided", "permuted", "expanded"],
)
@pytest.mark.parametrize("layers", [1, 2])
def test_an_input_of_any_shape_and_strides_will_do(x, layers, calls):
    check(chain(20, 30, 4) if layers == 2 else SparseChain([chain(20, 30).layers[0]], [True]), x)
    assert calls


def test_it_is_one_call_where_no_gradient_is_wanted(calls):
    module, x = chain(20, 30, 4), torch.randn(3, 20)
    y = module(x)
    assert len(calls) == 1
    assert not y.requires_grad
    assert y.is_contiguous()
    with torch.inference_mode():
        torch.testing.assert_close(module(x), y)
    assert len(calls) == 2
    module.requires_grad_()
    with torch.no_grad():
        module(x)
    assert len(calls) == 3


def test_gradients_are_those_of_the_layers(calls):
    module = chain(20, 30, 4, dtype=torch.float64, frozen=False)
    x = torch.randn(6, 20, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        module(x.detach())  # what it prepares must not be used now
    found = torch.autograd.grad(module(x).sin().sum(), [x, *module.parameters()])
    expected = torch.autograd.grad(module.layers[1](module.layers[0](x).relu()).sin().sum(), [x, *module.parameters()])
    assert len(calls) == 1
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    only_x = module.requires_grad_(False)(x)
    assert only_x.requires_grad


def changed(how, module):
    layer = module.layers[0]
    with torch.no_grad():
        if how == "in place":
            layer.weight.mul_(-2)
        elif how == "data in place":
            layer.weight.data.mul_(-2)
        elif how == "data":
            layer.weight.data = layer.weight.data * -2
        elif how == "bias":
            layer.bias.add_(1)
        elif how == "no bias":
            layer.bias = None
        elif how == "parameter":
            layer.weight = nn.Parameter(layer.weight * -2, requires_grad=False)
        elif how == "type":
            module.double()
        elif how == "structure":
            rows, columns = torch.rand(layer.out_features, layer.in_features).lt(0.1).nonzero(as_tuple=True)
            layer.set_structure(rows, columns, torch.randn(rows.numel()))
        elif how == "buffer in place":
            for first, last in pairwise(layer.row_pointers.tolist()):
                layer.columns[first:last] = (layer.in_features - 1 - layer.columns[first:last]).flip(0)
        elif how == "state":
            module.load_state_dict(chain(20, 30, 4, empty=True).state_dict())
        elif how == "layer":
            module.layers[0] = chain(20, 30, empty=True).layers[0]
        elif how == "dense":
            module.layers[1] = module.layers[1].to_dense()


@pytest.mark.parametrize(
    "how",
    [
        *("in place", "data in place", "data", "bias", "no bias", "parameter", "type", "structure", "buffer in place"),
        *("state", "layer"),
    ],
)
@pytest.mark.parametrize("batch", [1, 9])
def test_every_change_counts_at_the_next_call(how, batch):
    module, x = chain(20, 30, 4), torch.randn(batch, 20)
    before = module(x)
    changed(how, module)
    x = x.to(module.layers[0].weight.dtype)
    check(module, x)
    assert how == "type" or not torch.equal(module(x), before)


def test_with_a_dense_layer_they_are_called_one_after_another(calls):
    module, x = chain(20, 30, 4), torch.randn(5, 20)
    expected = module(x)
    changed("dense", module)
    torch.testing.assert_close(module(x), expected)
    assert [given[-1] for given in calls] == [5, 5]  # the sparse layer that is left is run alone


def test_hooks_of_the_layers_are_called():
    module, x, seen = chain(20, 30, 4), torch.randn(5, 20), []
    expected = module(x)
    handle = module.layers[1].register_forward_hook(lambda layer, inputs, output: seen.append(output) or 2 * output)
    torch.testing.assert_close(module(x), 2 * expected)
    handle.remove()
    module(x)
    assert len(seen) == 1
    handle = nn.modules.module.register_module_forward_pre_hook(lambda layer, inputs: seen.append(layer))
    try:
        module(x)
    finally:
        handle.remove()
    assert [type(layer) for layer in seen[1:]] == [SparseChain, SparseLinear, SparseLinear]


@pytest.mark.parametrize("batch", [1, 20, 70])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_passes_as_through_the_layers(value, batch):
    module, x = chain(20, 30, 4, empty=True), torch.randn(batch, 20)
    x[0, 3] = value
    expected = x
    for layer, follows in zip(module.layers, module.relu, strict=True):
        expected = layer(expected).relu() if follows else layer(expected)
    torch.testing.assert_close(module(x), expected, equal_nan=True, rtol=1e-5, atol=1e-5)
    assert module(x)[0].isfinite().all() == (value < 0)  # the ReLU takes what is below 0, and there is no other here
    assert module(x)[1:].isfinite().all()


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one processor")
@pytest.mark.parametrize("batch", [5, 64, 130, 500])
def test_threads_change_nothing(batch, monkeypatch):
    module, x = chain(40, 70, 33, 5), torch.randn(batch, 40)
    expected = module(x)
    monkeypatch.setattr(products, "_PARALLEL_WORK", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(module(x), expected)
        with products._team:  # another thread is at work in parallel
            assert torch.equal(module(x), expected)
    finally:
        torch.set_num_threads(before)


def test_several_threads_may_call_it_at_once():
    module = chain(40, 70, 33, 5)
    inputs = [torch.randn(90, 40) for _ in range(4)]
    expected = [module(x) for x in inputs]
    module._direct = None
    same = []

    def work(i):
        same.append(all(torch.equal(module(inputs[i]), expected[i]) for _ in range(100)))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert same == [True] * 4


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_is_independent(how):
    module, x = chain(20, 30, 4), torch.randn(5, 20)
    expected = module(x)
    copied = copy.deepcopy(module) if how == "deepcopy" else pickle.loads(pickle.dumps(module))
    torch.testing.assert_close(copied(x), expected)
    copied.layers[0].weight.data.zero_()
    torch.testing.assert_close(module(x), expected)
    assert not torch.equal(copied(x), expected)
    assert copied.relu == module.relu == (True, False)


def test_the_state_dict_is_that_of_the_layers():
    module, x = chain(20, 30, 4), torch.randn(5, 20)
    other = chain(20, 30, 4, empty=True)
    assert list(module.state_dict())[:4] == [
        f"layers.0.{name}" for name in ("weight", "bias", "row_pointers", "columns")
    ]
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), module(x))


@pytest.mark.parametrize("suffix", ["sparse.safetensors", "safetensors", "pt2"])
def test_it_is_exported_and_read_back(suffix, tmp_path):
    module, x = chain(20, 30, 4), torch.randn(5, 20)
    expected = module(x)
    lp.export(module, tmp_path / f"chain.{suffix}", example=x)
    loaded = lp.load_export(tmp_path / f"chain.{suffix}")
    if suffix == "pt2":
        torch.testing.assert_close(loaded(x), expected)
        return
    other = chain(20, 30, 4, empty=True) if suffix == "sparse.safetensors" else module.to_dense()
    other.load_state_dict(loaded)
    torch.testing.assert_close(other(x), expected)


def test_onnx_gets_the_dense_layers(tmp_path):
    pytest.importorskip("onnxscript")
    module, x = chain(20, 30, 4), torch.randn(5, 20)
    lp.export(module, tmp_path / "chain.onnx", example=x)
    reference = pytest.importorskip("onnx.reference").ReferenceEvaluator(str(tmp_path / "chain.onnx"))
    (found,) = reference.run(None, {reference.input_names[0]: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), module(x), rtol=1e-5, atol=1e-5)


def test_as_dense_layers_it_gives_the_same():
    module, x = chain(20, 30, 4), torch.randn(5, 20)
    dense = module.to_dense()
    assert [type(layer) for layer in dense.layers] == [nn.Linear, nn.ReLU, nn.Linear]
    assert list(dense.state_dict()) == [f"layers.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")]
    torch.testing.assert_close(dense(x), module(x))


def test_a_compiled_chain_gives_the_same():
    module, x = chain(20, 30, 4), torch.randn(5, 20)
    torch.testing.assert_close(torch.compile(module, backend="eager")(x), module(x))


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_a_traced_chain_gives_the_same_for_other_inputs():
    module = chain(20, 30, 4)
    with torch.no_grad():
        traced = torch.jit.trace(module, torch.randn(5, 20))
        x = torch.randn(5, 20)
        torch.testing.assert_close(traced(x), module(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    module, x = chain(20, 30, 4), torch.randn(5, 20).to(dtype)
    plain = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        cast = module(x)
    assert cast.dtype == dtype
    assert torch.equal(cast, plain)


def test_a_tangent_is_not_lost():
    module, x = chain(20, 30, 4), torch.randn(5, 20)
    module(x)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match="jvp"):
            module(dual)


def test_a_weight_that_something_computes_is_seen():
    module, x = chain(20, 30, 4), torch.randn(5, 20)
    before = module(x)

    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    nn.utils.parametrize.register_parametrization(module.layers[1], "weight", Doubled())
    bias = module.layers[1].bias
    torch.testing.assert_close(module(x) - bias, 2 * (before - bias))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.randn(4, 19), ValueError, r"must have shape \(..., in_features\) = \(..., 20\), got \(4, 19\)"),
        (torch.tensor(1.0), ValueError, r"got \(\)"),
        (torch.randn(4, 20, device="meta"), ValueError, "its input is on meta"),
        (torch.randn(4, 20, dtype=torch.float64), TypeError, "float64 and the weights are torch.float32"),
        (torch.ones(4, 20, dtype=torch.int64), TypeError, "the input is torch.int64"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(x, error, message):
    with pytest.raises(error, match=message):
        chain(20, 30, 4)(x)


@pytest.mark.parametrize(
    ("layers", "relu", "error", "message"),
    [
        ([nn.Linear(3, 4), nn.ReLU()], [True, True], TypeError, "SparseLinear and nn.Linear layers, got ReLU"),
        ([], [], ValueError, "at least one layer, got 0 for 0"),
        ([nn.Linear(3, 4)], [True, False], ValueError, "got 2 for 1"),
        ([nn.Linear(3, 4), nn.Linear(5, 2)], [True, False], ValueError, "takes 5 features, .* returns 4"),
    ],
)
def test_layers_that_make_no_chain_are_refused(layers, relu, error, message):
    with pytest.raises(error, match=message):
        SparseChain(layers, relu)


@pytest.mark.skipif(sys.platform != "linux", reason="counts this process's memory")
def test_calls_leave_nothing_behind():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    module, x = chain(400, 300, 5), torch.randn(300, 400)
    for _ in range(20):
        module(x)
    before = resident()
    for _ in range(200):
        module(x)
    assert resident() - before < 20 * x.numel() * 4
