import copy
import io
import math
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lpsphere as lp
from lpsphere.kernels import products
from lpsphere.sparse import SparseLinear, structure

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def layer(in_features=33, out_features=17, *, sparsity=0.7, dtype=torch.float64, **settings):
    return SparseLinear(in_features, out_features, sparsity=sparsity, dtype=dtype, **settings)


def masked(mask, dtype=torch.float64, bias=True):
    torch.manual_seed(0)
    return SparseLinear.from_dense(nn.Linear(mask.shape[1], mask.shape[0], bias=bias, dtype=dtype), mask)


def connections_of(sparse):
    return set(zip(sparse.rows.tolist(), sparse.columns.tolist(), strict=True))


def run(module, x, weigh=None):
    """Output, and the gradients of the input and of the weights (of a dense layer: all of them) and biases."""
    x = x.detach().requires_grad_()
    y = module(x)
    gradients = torch.autograd.grad((y * (y.sin() if weigh is None else weigh)).sum(), [x, *module.parameters()])
    return y, gradients


def check_as_dense(sparse, x):
    dense = sparse.to_dense()
    y, (dx, dv, *db) = run(sparse, x)
    expected, (dense_dx, dense_dw, *dense_db) = run(dense, x)
    kind = sparse.weight.dtype
    tolerance = {"rtol": TOLERANCE[kind] * 10, "atol": TOLERANCE[kind] * math.sqrt(1 + x.numel())}
    torch.testing.assert_close(y, expected, **tolerance)
    torch.testing.assert_close(dx, dense_dx, **tolerance)
    torch.testing.assert_close(dv, dense_dw[sparse.rows.long(), sparse.columns.long()], **tolerance)
    torch.testing.assert_close(db, dense_db, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape", [(), (0,), (1,), (3,), (127,), (128,), (2, 5), (0, 5), (5, 0), (2, 3, 4)], ids=lambda shape: str(shape)
)
def test_outputs_and_gradients_are_those_of_the_dense_layer(shape, dtype):
    for bias in (True, False):
        check_as_dense(layer(dtype=dtype, bias=bias), torch.randn(*shape, 33, dtype=dtype))


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(7, 9, dtype=torch.bool),
        torch.zeros(7, 9, dtype=torch.bool),
        torch.eye(9, dtype=torch.bool),
        torch.arange(63).view(7, 9) % 2 * (torch.arange(7) % 3 == 0)[:, None] == 1,
        torch.ones(1, 1, dtype=torch.bool),
        torch.ones(5, 1, dtype=torch.bool),
    ],
    ids=["full", "none", "fan-in 1", "empty rows", "1 x 1", "one feature"],
)
def test_any_structure_gives_what_the_dense_layer_gives(mask):
    check_as_dense(masked(mask), torch.randn(6, mask.shape[1], dtype=torch.float64))


@settings(max_examples=40)
@given(
    sizes=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    leading=st.lists(st.integers(0, 9), max_size=3),
    sparsity=st.floats(0, 0.95),
    seed=st.integers(0, 99),
    bias=st.booleans(),
)
def test_any_shape_gives_what_the_dense_layer_gives(sizes, leading, sparsity, seed, bias):
    sparse = layer(*sizes, sparsity=min(sparsity, 1 - 1 / sizes[0]), seed=seed, bias=bias)
    check_as_dense(sparse, torch.randn(*leading, sizes[0], dtype=torch.float64))


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(33, 8, dtype=torch.float64).t(),
        torch.randn(8, 66, dtype=torch.float64)[:, ::2],
        torch.randn(16, 33, dtype=torch.float64)[::2],
        torch.randn(1, 33, dtype=torch.float64).expand(8, 33),
        torch.randn(33, 4, 2, dtype=torch.float64).permute(2, 1, 0),
    ],
    ids=["transposed", "every second feature", "every second sample", "expanded", "permuted"],
)
def test_an_input_of_any_strides_will_do(x):
    check_as_dense(layer(), x)


def test_a_gradient_of_any_strides_will_do():
    sparse, x = layer(), torch.randn(8, 33, dtype=torch.float64)
    weigh = torch.randn(8, 17, dtype=torch.float64)
    _, expected = run(sparse, x, weigh)
    for same in (weigh.t().contiguous().t(), weigh.repeat_interleave(2, 1)[:, ::2]):
        for a, b in zip(run(sparse, x, same)[1], expected, strict=True):
            torch.testing.assert_close(a, b)
    sparse(x).sum().backward()  # an expanded gradient
    torch.testing.assert_close(sparse.bias.grad, torch.full((17,), 8.0, dtype=torch.float64))


def test_gradients_agree_with_finite_differences():
    sparse, x = layer(9, 7), torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, weight, bias: torch.func.functional_call(sparse, {"weight": weight, "bias": bias}, (x,)),
        (x, sparse.weight, sparse.bias),
    )


def test_a_second_derivative_is_refused():
    sparse, x = layer(), torch.randn(4, 33, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(sparse(x).sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("frozen", [("weight",), ("bias",), ("weight", "bias"), ("x",), ()])
def test_only_the_gradients_that_are_asked_for_are_computed(frozen, monkeypatch):
    sparse, x = layer(), torch.randn(4, 33, dtype=torch.float64).requires_grad_("x" not in frozen)
    for name in frozen:
        if name != "x":
            getattr(sparse, name).requires_grad_(False)
    called = []
    for name in ("sample", "multiply_transposed"):
        function = getattr(products, name)
        monkeypatch.setattr(
            f"lpsphere.sparse.product.{name}", lambda *given, n=name, f=function: (called.append(n), f(*given))
        )
    sparse(x).sum().backward()
    assert ("sample" in called) == ("weight" not in frozen)
    assert ("multiply_transposed" in called) == ("x" not in frozen)
    assert (sparse.bias.grad is None) == ("bias" in frozen)


def test_nothing_is_kept_for_a_backward_pass_that_cannot_come():
    sparse, x = layer(), torch.randn(4, 33, dtype=torch.float64)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor), lambda _: None):
        with torch.no_grad():
            assert not sparse(x).requires_grad
        assert kept == []
        sparse(x)
        assert [tuple(tensor.shape) for tensor in kept] == [(33, 4)]  # the input needs no gradient: no weights


def test_it_computes_in_inference_mode():
    sparse, x = layer(), torch.randn(4, 33, dtype=torch.float64)
    with torch.inference_mode():
        inside = SparseLinear.from_dense(sparse.to_dense())
        torch.testing.assert_close(sparse(x), inside(x))
    torch.testing.assert_close(sparse(x), sparse.to_dense()(x))


def test_a_weight_changed_between_forward_and_backward_is_noticed():
    sparse, x = layer(), torch.randn(4, 33, dtype=torch.float64, requires_grad=True)
    y = sparse(x)
    with torch.no_grad():
        sparse.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("where", ["input", "weights", "both"])
def test_half_precision_is_computed_in_float32_and_returned_in_the_type_of_the_input(half, where):
    sparse = layer(dtype=half if where != "input" else torch.float32)
    x = torch.randn(6, 33).to(half if where != "weights" else torch.float32).requires_grad_()
    y = sparse(x)
    y.float().sin().sum().backward()
    exact = copy.deepcopy(sparse).float()
    x32 = x.detach().float().requires_grad_()
    y32 = exact(x32)
    assert y.dtype == x.dtype == x.grad.dtype
    assert sparse.weight.grad.dtype == sparse.bias.grad.dtype == sparse.weight.dtype
    assert torch.equal(y, y32.to(x.dtype))
    y32.to(x.dtype).float().sin().sum().backward()
    assert torch.equal(x.grad, x32.grad.to(x.dtype))
    assert torch.equal(sparse.weight.grad, exact.weight.grad.to(sparse.weight.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    sparse, x = layer(dtype=torch.float32), torch.randn(6, 33).to(dtype)
    plain, gradients = run(sparse, x)
    with torch.autocast("cpu", torch.bfloat16):
        cast, cast_gradients = run(sparse, x)
    assert cast.dtype == dtype
    assert torch.equal(cast, plain)
    assert all(torch.equal(a, b) for a, b in zip(gradients, cast_gradients, strict=True))


def test_a_network_under_autocast_trains():
    net = nn.Sequential(nn.Linear(12, 20), layer(20, 20, dtype=torch.float32), nn.ReLU(), nn.Linear(20, 3))
    with torch.autocast("cpu", torch.bfloat16):
        y = net(torch.randn(5, 12))
        loss = nn.functional.cross_entropy(y, torch.tensor([0, 1, 2, 0, 1]))
    loss.backward()
    assert y.dtype == torch.bfloat16
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in net.parameters())


def test_threads_do_not_change_the_results(monkeypatch):
    monkeypatch.setattr(products, "_PARALLEL_WORK", 0)
    sparse, x = layer(60, 40, dtype=torch.float32), torch.randn(50, 60)
    found, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(run(sparse, x))
    torch.set_num_threads(before)
    (y1, g1), (y2, g2) = found
    assert torch.equal(y1, y2)
    for a, b in zip(g1[:2], g2[:2], strict=True):
        assert torch.equal(a, b)


def test_it_trains_with_any_optimizer():
    torch.manual_seed(0)
    net = nn.Sequential(layer(20, 30, dtype=torch.float32), nn.ReLU(), layer(30, 1, sparsity=0.5, dtype=torch.float32))
    x = torch.randn(64, 20)
    target = x[:, :1] * x[:, 1:2]
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    losses = []
    for _ in range(200):
        loss = nn.functional.mse_loss(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def test_a_compiled_network_gives_the_same():
    net = nn.Sequential(layer(dtype=torch.float32), nn.ReLU(), layer(17, 5, dtype=torch.float32))
    x = torch.randn(4, 33)
    compiled = torch.compile(net, backend="eager")
    torch.testing.assert_close(compiled(x), net(x))


def test_the_initial_structure_has_the_same_fan_in_everywhere_and_exactly_the_connections_asked_for():
    for sparsity in (0.0, 0.3, 0.5, 0.77, 0.95):
        sparse = layer(40, 30, sparsity=sparsity)
        fan_ins = sparse.row_pointers.diff()
        assert sparse.connections == round((1 - sparsity) * 1200) == len(connections_of(sparse))
        assert fan_ins.max() - fan_ins.min() <= 1
        assert sparse.sparsity == pytest.approx(1 - sparse.connections / 1200)


def test_the_neurons_that_have_one_connection_more_are_drawn_too():
    longer = [layer(4, 10, sparsity=0.725, seed=seed).row_pointers.diff() == 2 for seed in range(40)]
    counts = torch.stack(longer).sum(0)
    assert counts.sum() == 40
    assert counts.max() < 20


@pytest.mark.parametrize("sparsity", [0.8, 0.3])
def test_the_initial_structure_prefers_no_feature(sparsity):
    counts = torch.zeros(10)
    for seed in range(400):
        counts += torch.bincount(layer(10, 5, sparsity=sparsity, seed=seed).columns, minlength=10)
    share = 1 - sparsity
    assert (counts / 2000 - share).abs().max() < 5 * math.sqrt(share * sparsity / 2000)


def test_the_initial_values_are_those_of_a_linear_layer_of_that_fan_in():
    sparse = layer(1000, 400, sparsity=0.9, dtype=torch.float32)
    bound = 1 / math.sqrt(100)
    assert 0.999 * bound < sparse.weight.abs().max() <= bound
    assert sparse.weight.mean().abs() < 0.01 * bound
    assert sparse.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert 0.95 * bound < sparse.bias.abs().max() <= bound


def test_the_seed_alone_decides():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = layer(seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    same, other = layer(seed=3), layer(seed=4)
    assert torch.equal(first.columns, same.columns)
    assert torch.equal(first.weight, same.weight)
    assert connections_of(first) != connections_of(other)


@pytest.mark.parametrize("sparsity", [0.8, 0.3])
def test_how_many_connections_are_drawn_at_a_time_makes_no_difference(monkeypatch, sparsity):
    layers = []
    for drawn in (1, 100, 2**15):
        monkeypatch.setattr(structure, "_DRAWN", drawn)
        layers.append(SparseLinear(40, 30, sparsity=sparsity, seed=7).state_dict())
    assert all(torch.equal(layer[name], layers[0][name]) for layer in layers for name in layer)


def test_without_a_seed_the_global_generator_decides_as_for_a_linear_layer():
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append([layer(), layer()])
    (first, second), (same, _) = found
    assert torch.equal(first.columns, same.columns)
    assert torch.equal(first.weight, same.weight)
    assert connections_of(first) != connections_of(second)
    assert not torch.equal(first.bias, second.bias)


def test_an_output_may_be_changed_in_place():
    sparse = layer()
    x = torch.randn(6, 33, dtype=torch.float64)
    found = []
    for inplace in (False, True):
        sparse.zero_grad()
        y = nn.functional.relu(sparse(x), inplace=inplace)
        y.square().sum().backward()
        found.append((y.detach(), sparse.weight.grad, sparse.bias.grad))
    assert y.grad_fn.name() == "ReluBackward0"  # of the whole tensor, not of a view, which would be slow
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_it_says_what_it_is():
    assert repr(SparseLinear(100, 50, sparsity=0.9)) == (
        "SparseLinear(in_features=100, out_features=50, connections=500, sparsity=0.9, bias=True)"
    )


def test_a_layer_of_another_device_is_made_there():
    with torch.device("meta"):
        assert SparseLinear(8, 4, sparsity=0.5).weight.device.type == "meta"
    assert SparseLinear(8, 4, sparsity=0.5, device="meta").columns.device.type == "meta"


def test_a_layer_made_for_inference_mode_is_indexed():
    with torch.inference_mode():
        sparse = layer()
        assert sparse(torch.zeros(2, 33, dtype=torch.float64)).shape == (2, 17)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"sparsity": 1.0}, ValueError, r"sparsity must be in \[0, 1\), got 1.0"),
        ({"sparsity": -0.1}, ValueError, "got -0.1"),
        ({"sparsity": math.nan}, ValueError, "got nan"),
        ({"sparsity": "0.9"}, TypeError, "sparsity must be a number"),
        ({"sparsity": True}, TypeError, "sparsity must be a number"),
        ({"sparsity": 0.9}, ValueError, "leaves 3 connections to 4 neurons, .* choose 0.875 or less"),
        ({"in_features": 0}, ValueError, "in_features must be from 1"),
        ({"out_features": 2.0}, TypeError, "out_features must be a whole number"),
        ({"in_features": 2**20, "out_features": 2**20, "sparsity": 0.5}, ValueError, "choose 0.99804.* or more"),
        ({"seed": 0.5}, TypeError, "seed must be a whole number"),
        ({"dtype": torch.int32}, TypeError, "weights must be float32, .* got torch.int32"),
    ],
)
def test_arguments_that_cannot_be_are_refused(given, error, message):
    arguments = {"in_features": 8, "out_features": 4, "sparsity": 0.5} | given
    with pytest.raises(error, match=message):
        SparseLinear(**arguments)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.randn(4, 32), ValueError, r"must have shape \(..., in_features\) = \(..., 33\), got \(4, 32\)"),
        (torch.tensor(1.0), ValueError, r"got \(\)"),
        (torch.randn(4, 33, device="meta"), ValueError, "its input is on meta: .*to_dense"),
        (torch.randn(4, 33, dtype=torch.float64), TypeError, "float64 and the weights are torch.float32: both must be"),
        (torch.ones(4, 33, dtype=torch.int64), TypeError, "the input is torch.int64"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(x, error, message):
    with pytest.raises(error, match=message):
        layer(dtype=torch.float32)(x)


def test_a_layer_on_another_device_says_what_to_use_there():
    with pytest.raises(ValueError, match="its layer is on meta: move it with"):
        layer(device="meta")(torch.randn(4, 33, dtype=torch.float64))


def test_it_is_selected_like_a_dense_layer():
    net = nn.Sequential(layer(), nn.ReLU(), nn.Linear(17, 9), layer(9, 5))
    assert [neuron.name for neuron in lp.neurons.select(net)] == ["0.weight", "2.weight"]
    first = lp.neurons.select(net)[0]
    assert (first.neurons, first.fan_in, first.size, first.shape) == (17, 33, 561, (17, 33))
    assert layer().neuron_rows("bias") is None


def test_the_factors_of_the_gradient_are_kept_only_when_asked_for():
    sparse = layer()
    x = torch.randn(2, 4, 33, dtype=torch.float64)
    sparse(x).sin().sum().backward()
    assert sparse.gradient_factors() is None
    sparse.zero_grad()
    sparse.keep_factors(True)
    with torch.no_grad():
        sparse(x)
    assert sparse.gradient_factors() is None
    for _ in range(2):  # gradients add up, and so do the samples
        sparse(x).sin().sum().backward()
    dy, inputs = sparse.gradient_factors()
    assert (dy.shape, inputs.shape) == ((17, 16), (33, 16))
    dense = sparse.to_dense()
    dense(x).sin().sum().mul(2).backward()
    torch.testing.assert_close(dy @ inputs.t(), dense.weight.grad)
    assert copy.deepcopy(sparse).gradient_factors() is None
    sparse.keep_factors(False)
    assert sparse.gradient_factors() is None


@pytest.mark.parametrize("set_to_none", [True, False])
def test_factors_of_gradients_that_were_zeroed_are_forgotten(set_to_none):
    sparse = layer()
    sparse.keep_factors(True)
    for seed in (0, 1):
        torch.manual_seed(seed)
        x = torch.randn(3, 33, dtype=torch.float64)
        sparse.zero_grad(set_to_none=set_to_none)
        (sparse(x) + sparse(2 * x)).sin().sum().backward()  # used twice
    dy, inputs = sparse.gradient_factors()
    assert dy.shape == (17, 6)
    found = (dy @ inputs.t())[sparse.rows.long(), sparse.columns.long()]
    torch.testing.assert_close(found, sparse.weight.grad)


def test_frozen_weights_keep_no_factors():
    sparse = layer()
    sparse.weight.requires_grad_(False)
    sparse.keep_factors(True)
    sparse(torch.randn(3, 33, dtype=torch.float64, requires_grad=True)).sum().backward()
    assert sparse.gradient_factors() is None


WIDE = """
import resource, torch
from lpsphere.sparse import SparseLinear
SparseLinear(8, 8, sparsity=0.5)(torch.randn(4, 8)).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
layer = SparseLinear(65536, 65536, sparsity=0.999)
x = torch.randn(4, 65536, requires_grad=True)
layer(x).square().sum().backward()
assert x.grad.any() and layer.weight.grad.any()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss has another unit elsewhere")
def test_a_wide_layer_takes_memory_for_its_connections_only():
    done = subprocess.run([sys.executable, "-c", WIDE], capture_output=True, text=True, timeout=300, check=True)
    assert int(done.stdout) < 500  # MB; one bool for each weight of the dense layer would take 4,096


def test_deepcopy_and_pickle_give_layers_of_their_own():
    sparse, x = layer(), torch.randn(4, 33, dtype=torch.float64)
    expected = sparse(x)
    file = io.BytesIO()
    torch.save(sparse, file)
    file.seek(0)
    for other in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse)), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), expected)
        other.set_structure(torch.tensor([0]), torch.tensor([0]), torch.tensor([1.0]))
        assert other.connections == 1
        assert torch.equal(sparse(x), expected)


def test_what_was_made_to_compute_with_is_not_saved():
    sparse = layer(dtype=torch.float32)
    before = len(pickle.dumps(sparse))
    sparse(torch.randn(4, 33, requires_grad=True)).sum().backward()
    sparse.zero_grad()
    assert len(pickle.dumps(sparse)) == before


def test_types_and_devices_move_the_values_only():
    sparse = layer()
    sparse(torch.randn(1, 33, dtype=torch.float64))
    sparse.float()
    assert sparse.columns.dtype == sparse.row_pointers.dtype == torch.int32
    assert sparse(torch.randn(2, 33)).dtype == torch.float32
    assert sparse.to("meta").columns.device.type == "meta"
