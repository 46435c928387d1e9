"""compact(): the same outputs with less, or an error; whatever is not understood stays as it is."""

import copy
import itertools
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

import lpsphere as lp
from lpsphere.models import CNN, MLP, WideResNet
from lpsphere.sparse import SparseChain, SparseLinear, preparation
from lpsphere.sparse.compaction import Compacted

INPUT = {"mlp": (20,), "mlp without norm": (20,), "cnn": (1, 28, 28), "cnn without norm": (1, 28, 28), "wrn": (3, 8, 8)}


def network(name):
    torch.manual_seed(0)
    if name.startswith("mlp"):
        return MLP(20, (30, 12), 4, norm="without" not in name)
    if name.startswith("cnn"):
        return CNN(norm="without" not in name)
    return WideResNet((1, 2, 1), 4, 3, 5)


def trained(model, density=0.15, maps=True):
    """Random weights, of which few exist, and batch norms that do something."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            shape = module.weight.shape if module.weight.ndim == 2 or not maps else (*module.weight.shape[:2], 1, 1)
            with torch.no_grad():
                module.weight.mul_(torch.rand(shape) < density)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


def check(model, x, **options):
    """Compact, and compare on other inputs than the example."""
    before = copy.deepcopy(model.state_dict())
    training = [module.training for module in model.modules()]
    result = lp.compact(model, x, **options)
    assert isinstance(result, Compacted)
    assert [module.training for module in model.modules()] == training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert not any(module.training for module in result.model.modules())
    reference = copy.deepcopy(model).eval()
    tolerance = 1e-12 if x.dtype == torch.float64 else 1e-5
    for rows in (x, torch.randn(5, *x.shape[1:], dtype=x.dtype)):
        with torch.no_grad():
            torch.testing.assert_close(result.model(rows), reference(rows), rtol=tolerance, atol=tolerance)
    return result


def kinds(model):
    return [type(module).__name__ for module in model.modules()]


def shapes(result):
    return {layer.name: layer.after for layer in result.report.layers}


def measured(monkeypatch, sparse):
    """Let measurements say that sparse layers are faster, or slower."""

    def measure(calls, seconds=0.0):
        for call in calls:
            call()
        return [1 + (-0.1 if sparse else 0.1) * i for i in range(len(calls))]

    monkeypatch.setattr(sys.modules["lpsphere.sparse.compact"], "microseconds", measure)


@pytest.mark.parametrize("goal", ["speed", "size"])
@pytest.mark.parametrize("batch", [1, 128])
@pytest.mark.parametrize("name", ["mlp", "mlp without norm"])
def test_a_perceptron_computes_the_same_with_less(name, batch, goal):
    result = check(trained(network(name)), torch.randn(batch, 20), goal=goal)
    assert result.report.bytes_after < result.report.bytes_before
    assert "BatchNorm1d" not in kinds(result.model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", INPUT)
@pytest.mark.parametrize("maps", [True, False])
def test_every_network_keeps_its_outputs(name, dtype, maps):
    model = trained(network(name), 0.3, maps).to(dtype)
    x = torch.randn(3, *INPUT[name], dtype=dtype)
    result = check(model, x)
    assert result.report.note == ""
    assert not [kind for kind in kinds(result.model) if kind.startswith("BatchNorm")]


@pytest.mark.parametrize("seed", range(10))
def test_a_residual_network_loses_maps_that_nothing_reads(seed):
    model = network("wrn")
    torch.manual_seed(seed)
    result = check(trained(model, 0.1).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64))
    before = {layer.name: layer.before for layer in result.report.layers}
    after = shapes(result)
    assert sum(torch.Size(shape).numel() for shape in after.values()) < sum(
        torch.Size(shape).numel() for shape in before.values()
    )
    assert after["stage1.0.conv2"][0] == after["stage1.0.shortcut.conv"][0] == after["stage2.0.conv1"][1]


def chain(*widths, act=nn.ReLU, **options):
    torch.manual_seed(1)
    layers = []
    for fan_in, width in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, width, **options), act()]
    return nn.Sequential(*layers[:-1])


def test_neurons_that_nothing_reads_go_with_those_that_only_they_read():
    model = chain(4, 5, 6, 3)
    with torch.no_grad():
        model[4].weight[:, 1:] = 0  # of the six, only the first is read
        model[2].weight[0, 2:] = 0  # which reads two of the five
    assert shapes(check(model, torch.randn(7, 4))) == {"0": (2, 4), "2": (1, 2), "4": (3, 1)}


def test_inputs_and_outputs_of_the_model_stay():
    model = chain(4, 5, 3)
    with torch.no_grad():
        model[0].weight[:, 1] = 0
        model[2].weight[2] = 0
    assert shapes(check(model, torch.randn(7, 4))) == {"0": (5, 4), "2": (3, 5)}


@pytest.mark.parametrize("act", [nn.ReLU, nn.Sigmoid, nn.GELU, nn.Tanh, nn.Softplus])
def test_a_neuron_without_inputs_is_a_constant_of_the_next_biases(act):
    model = chain(4, 5, 3, act=act).double()
    with torch.no_grad():
        model[0].weight[[1, 3]] = 0
        model[0].bias[[1, 3]] = torch.tensor([0.7, -0.4], dtype=torch.float64)
    result = check(model, torch.randn(7, 4, dtype=torch.float64))
    assert shapes(result) == {"0": (3, 4), "2": (3, 3)}
    constants = act()(torch.tensor([0.7, -0.4], dtype=torch.float64))
    expected = model[2].bias + model[2].weight[:, [1, 3]] @ constants
    torch.testing.assert_close(result.model[2].bias, expected.detach())


def test_a_constant_passes_through_several_layers_and_makes_the_biases_it_needs():
    model = chain(4, 5, 6, 3, bias=False)
    model.insert(1, nn.BatchNorm1d(5))
    nn.init.ones_(model[1].bias)
    with torch.no_grad():
        model[0].weight.zero_()
    result = check(model, torch.randn(7, 4), goal="size")
    assert shapes(result) == {"0": (1, 4), "3": (1, 1), "5": (3, 1)}
    assert result.model[5].bias.any()


def test_with_zeros_around_an_image_a_constant_is_none():
    torch.manual_seed(0)
    for padding, maps in ((1, 3), (0, 2)):
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=padding))
        with torch.no_grad():
            model[0].weight[1] = 0
            model[0].bias[1] = 1
        assert shapes(check(model, torch.randn(2, 1, 8, 8)))["0"][0] == maps


@pytest.mark.parametrize("padding", [0, 1])
def test_a_norm_after_an_activation_goes_into_the_next_layer_where_that_is_exact(padding):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3, padding=padding))
    result = check(trained(model, 1.0), torch.randn(2, 1, 8, 8))
    assert (type(result.model[2]) is nn.Identity) == (padding == 0)
    assert result.report.layers[1].norms == (("2",) if padding == 0 else ())


def test_a_norm_is_folded_through_a_flattening():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(), nn.Linear(3 * 36, 4)
    result = check(trained(nn.Sequential(*layers), 1.0), torch.randn(2, 1, 8, 8))
    assert type(result.model[2]) is nn.Identity


class Residual(nn.Module):
    """A norm before each branch, and sums of the raw values."""

    def __init__(self, inplace=False):
        super().__init__()
        self.first, self.norm, self.inner = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.act, self.last = nn.ReLU(inplace), nn.Linear(8, 2)

    def forward(self, x):
        x = self.first(x)
        return self.last(x + self.inner(self.act(self.norm(x))))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_norm_that_cannot_be_folded_loses_its_dead_channels(inplace):
    torch.manual_seed(0)
    model = trained(Residual(inplace), 1.0)
    with torch.no_grad():
        model.inner.weight[:, 3] = 0
        model.last.weight[:, 3] = 0
    result = check(model, torch.randn(4, 6))
    assert result.model.norm.num_features == 7
    assert shapes(result)["inner"] == (7, 7)


class Aliased(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.one, self.two = how, nn.Linear(6, 8), nn.Linear(8, 2)
        with torch.no_grad():
            self.one.weight[:4] = 0
            self.one.bias[:4] = -1

    def forward(self, x):
        x = self.one(x)
        if self.how == "relu":
            y = functional.relu(x, inplace=True)
        else:
            y = x
            y += 1.5
        return self.two(x) + self.two.bias.sum() + y.sum()


@pytest.mark.parametrize("how", ["relu", "sum"])
def test_what_changes_in_place_under_another_name_is_not_misread(how):
    result = check(Aliased(how), torch.randn(4, 6))
    assert shapes(result)["one"] == (8, 6)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.alias = self.twice

    def forward(self, x):
        return self.last(self.alias(self.twice(self.first(x).relu()).relu()))


def test_a_layer_that_is_called_twice_keeps_its_shape_and_stays_one(monkeypatch):
    torch.manual_seed(0)
    result = check(trained(Shared()), torch.randn(4, 6), goal="size")
    assert shapes(result)["twice"] == (8, 8)
    assert result.model.twice is result.model.alias
    assert type(result.model.twice) is SparseLinear


def test_layers_with_a_common_weight_stay_as_they_are():
    model = chain(6, 6, 6)
    model[2].weight = model[0].weight
    with torch.no_grad():
        model[0].weight[:5] = 0
    result = check(model, torch.randn(4, 6), goal="size")
    assert shapes(result) == {"0": (6, 6), "2": (6, 6)}
    assert result.model[0].weight is result.model[2].weight


def test_layers_with_hooks_and_those_to_keep_stay_as_they_are():
    model = trained(chain(6, 8, 8, 8, 2), 0.1)
    model[0].register_forward_hook(lambda module, inputs, output: output + 1)
    result = check(model, torch.randn(4, 6), goal="size", keep=["4*"])
    assert [type(result.model[i]) for i in (0, 4)] == [nn.Linear, nn.Linear]
    assert shapes(result)["0"] == (8, 6)
    assert shapes(result)["4"] == (8, 8)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(40, 30), nn.Linear(30, 2)

    def forward(self, x, scale=None):
        if scale is not None:
            x = x * scale
        h = self.hidden(x)
        return self.head(h if h.sum() > 0 else h.relu())


def test_a_model_that_cannot_be_traced_has_its_layers_exchanged_only():
    torch.manual_seed(0)
    model = trained(Branching(), 0.1)
    with torch.no_grad():
        model.head.weight[:, :20] = 0
    result = check(model, torch.randn(4, 40), goal="size")
    assert "torch.fx cannot trace it (TraceError" in result.report.note
    assert "structure left as it is" in str(result.report)
    assert shapes(result) == {"hidden": (30, 40), "head": (2, 30)}
    assert result.report.layers[0].form == "sparse"


def test_an_optional_argument_that_the_example_lacks_keeps_the_structure():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = chain(6, 8, 2)

        def forward(self, x, mask=None):
            return self.layers(x)

    assert "its forward takes 2 arguments, and the example has 1" in check(Optional(), torch.randn(2, 6)).report.note


def test_a_transformer_layer_is_left_alone():
    torch.manual_seed(0)
    model = trained(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 0.2)
    assert "SparseLinear" not in kinds(check(model, torch.randn(2, 5, 8), goal="size").model)


def test_a_norm_over_the_positions_of_a_sequence_is_not_one_over_neurons():
    model = trained(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Flatten(), nn.Linear(25, 3)), 1.0)
    assert type(check(model, torch.randn(2, 5, 6)).model[1]) is nn.BatchNorm1d


@pytest.mark.parametrize("flatten", ["view", "reshape", "flatten", "shape", "mean", "pool"])
def test_ways_to_flatten_images_are_understood(flatten):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4 * (1 if flatten in ("mean", "pool") else 36), 3)

        def forward(self, x):
            x = functional.relu(self.conv(x))
            if flatten == "mean":
                return self.head(x.mean((2, 3)))
            if flatten == "pool":
                return self.head(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))
            ways = {
                "view": lambda: x.view(x.size(0), -1),
                "reshape": lambda: x.reshape(x.shape[0], -1),
                "shape": lambda: x.view(x.shape[0], -1),
                "flatten": lambda: x.flatten(1),
            }
            return self.head(ways[flatten]())

    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        model.head.weight.view(3, 4, -1)[:, 2] = 0
    assert shapes(check(model, torch.randn(2, 1, 8, 8)))["conv"][0] == 3


def test_what_is_not_understood_keeps_all_that_reaches_it():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x):
            h = self.one(x)
            return self.two(torch.softmax(h, 1)), h.shape[1]

    model = Odd()
    with torch.no_grad():
        model.two.weight[:, :4] = 0
    result = lp.compact(model, torch.randn(2, 6))
    assert shapes(result)["one"] == (8, 6)


def test_masks_are_applied_and_left_out():
    model = chain(20, 30, 4)
    lp.Static(model, torch.optim.SGD(model.parameters(), lr=0.1), sparsity=0.9, total_steps=10)
    mask = model[0].weight_mask.clone()
    result = check(model, torch.randn(3, 20), goal="size")
    assert not [name for name in result.model.state_dict() if "mask" in name]
    assert result.report.layers[0].connections <= int(mask.sum())


def test_sparse_layers_are_taken_apart_like_dense_ones():
    torch.manual_seed(0)
    model = nn.Sequential(SparseLinear(20, 30, sparsity=0.9), nn.ReLU(), SparseLinear(30, 3, sparsity=0.9))
    result = check(model, torch.randn(4, 20), goal="size")
    assert shapes(result)["0"][0] == len(model[2].columns.unique())
    assert type(result.model[0]) is SparseLinear


def test_a_single_layer_is_a_model():
    torch.manual_seed(0)
    layer = trained(nn.Linear(50, 40), 0.05)
    assert type(check(layer, torch.randn(4, 50), goal="size").model) is SparseLinear
    assert type(check(SparseLinear(5, 4, sparsity=0.2), torch.randn(4, 5), goal="size").model) is nn.Linear


def test_a_network_without_any_connection_returns_its_constants():
    model = chain(6, 8, 3)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.zero_()
    assert shapes(check(model, torch.randn(2, 6), goal="size")) == {"0": (1, 6), "2": (3, 1)}


def test_forms_follow_what_was_measured(monkeypatch):
    model, x = trained(network("mlp"), 0.2), torch.randn(4, 20)
    measured(monkeypatch, sparse=True)
    assert "SparseLinear" in kinds(check(model, x).model)
    measured(monkeypatch, sparse=False)
    assert "SparseLinear" not in kinds(check(model, x).model)


def joined(result):
    """The layers of each chain, as the report has them."""
    chains = {}
    for layer in result.report.layers:
        if layer.joined:
            assert type(result.model.get_submodule(layer.joined)) is SparseChain
            chains.setdefault(layer.joined, []).append(layer.name)
    return chains


@pytest.mark.parametrize("batch", [1, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["mlp", "mlp without norm"])
def test_layers_that_read_only_one_another_become_one_chain(name, dtype, batch, monkeypatch):
    measured(monkeypatch, sparse=True)
    model = trained(network(name), 0.2).to(dtype)
    result = check(model, torch.randn(batch, 20, dtype=dtype))
    assert joined(result) == {"hidden": ["hidden.0.linear", "hidden.1.linear", "head"]}
    assert kinds(result.model).count("SparseChain") == 1
    assert "ReLU" not in kinds(result.model)
    assert type(result.model) is MLP
    assert result.report.bytes_after < result.report.bytes_before
    assert [layer.microseconds_after is None for layer in result.report.layers] == [False, True, True]
    assert "sparse in hidden" in str(result.report)
    again = check(result.model, torch.randn(batch, 20, dtype=dtype))  # what is compact already stays so
    assert joined(again) == {"hidden": ["hidden.layers.0", "hidden.layers.1", "hidden.layers.2"]}
    kept = check(result.model, torch.randn(4, 20, dtype=dtype), keep=["hidden*"])
    assert type(kept.model.hidden) is SparseChain


def test_for_size_nothing_is_joined_and_a_slower_chain_is_not_taken(monkeypatch):
    model, x = trained(network("mlp"), 0.2), torch.randn(4, 20)
    assert joined(check(model, x, goal="size")) == {}
    monkeypatch.setattr(
        sys.modules["lpsphere.sparse.compact"],
        "microseconds",
        lambda calls, seconds=0.0: [1.0, 0.5, *[0.5] * (len(calls) - 2)],
    )
    result = check(model, x)
    assert joined(result) == {}
    assert kinds(result.model).count("SparseLinear") == 3


def test_a_small_dense_layer_is_joined_with_sparse_ones(monkeypatch):
    measured(monkeypatch, sparse=True)
    model = trained(chain(20, 30, 12), 0.2)
    model.append(nn.Linear(12, 4))
    result = check(model, torch.randn(4, 20))
    assert joined(result) == {"0": ["0", "2", "3"]}
    assert result.model.get_submodule("0").relu == (True, False, False)
    dense = chain(20, 30, 12)
    assert joined(check(dense, torch.randn(4, 20))) == {}


def test_a_layer_that_is_not_joined_keeps_its_name(monkeypatch):
    measured(monkeypatch, sparse=True)
    model = nn.Sequential(trained(chain(20, 30, 12), 0.2), nn.Sequential(nn.ReLU(), nn.Linear(12, 40)), nn.Sequential())
    model[1][1].weight.data.mul_(torch.rand(40, 12) < 0.2)
    model[2].append(nn.ReLU()).append(nn.Linear(40, 1000))  # too large to be tried as it is
    result = check(model, torch.randn(4, 20))
    assert joined(result) == {"0": ["0.0", "0.2", "1.1"]}
    assert result.model.get_submodule("2.1").out_features == 1000


@pytest.mark.parametrize("between", ["sigmoid", "dropout", "hook", "keep", "read twice", "function", "head of two"])
def test_a_run_ends_where_something_else_comes_between(between, monkeypatch):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = nn.Linear(20, 30), nn.Linear(30, 30), nn.Linear(30, 5)
            self.first, self.second, self.drop = nn.ReLU(), nn.ReLU(), nn.Dropout()

        def forward(self, x):
            h = self.first(self.one(x))
            h = torch.sigmoid(h) if between == "sigmoid" else functional.relu(h) if between == "function" else h
            g = self.second(self.two(self.drop(h) if between == "dropout" else h))
            if between == "read twice":
                return self.three(g + h)
            return (self.three(g), g.sum()) if between == "head of two" else self.three(g)

    measured(monkeypatch, sparse=True)
    torch.manual_seed(0)
    model = trained(Net(), 0.2)
    if between == "hook":
        model.one.register_forward_hook(lambda module, inputs, output: output + 1)
    keep = ["three"] if between == "keep" else []
    if between == "head of two":
        found = joined(lp.compact(model, torch.randn(4, 20)))
    else:
        found = joined(check(model, torch.randn(4, 20), keep=keep))
    expected = {
        "sigmoid": {"two": ["two", "three"]},
        "dropout": {"one": ["one", "two", "three"]},
        "hook": {"two": ["two", "three"]},
        "keep": {"one": ["one", "two"]},
        "read twice": {},
        "function": {"two": ["two", "three"]},
        "head of two": {"one": ["one", "two"]},
    }
    assert found == expected[between]


class Indexing(nn.Module):
    """Calls a part by its place in a Sequential, which then must stay."""

    def __init__(self):
        super().__init__()
        self.body = trained(chain(20, 30, 12, 5), 0.2)

    def forward(self, x):
        for i in range(len(self.body)):
            x = self.body[i](x)
        return x


def test_a_sequential_whose_parts_are_called_stays(monkeypatch):
    measured(monkeypatch, sparse=True)
    result = check(Indexing(), torch.randn(4, 20))
    assert joined(result) == {"body.0": ["body.0", "body.2", "body.4"]}
    assert len(result.model.body) == 5


def test_an_activation_that_is_used_twice_is_not_taken_away(monkeypatch):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three, self.act = nn.Linear(20, 30), nn.Linear(30, 30), nn.Linear(30, 5), nn.ReLU()

        def forward(self, x):
            return self.three(self.act(self.two(self.act(self.one(x)))))

    measured(monkeypatch, sparse=True)
    torch.manual_seed(0)
    assert joined(check(trained(Twice(), 0.2), torch.randn(4, 20))) == {}


def test_dropout_is_off_and_the_copy_is_frozen():
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.9), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).train()
    result = check(trained(model, 0.5), torch.randn(4, 6))
    assert type(result.model[2]) is nn.Identity
    assert not any(parameter.requires_grad for parameter in result.model.parameters())


def test_the_report_is_readable_and_plain():
    report = check(trained(network("mlp")), torch.randn(4, 20)).report
    text = str(report)
    assert "hidden.0.linear" in text
    assert "30 x 20" in text
    assert "hidden.0.norm" in text
    assert "times as fast" in text
    assert report.to_dict()["layers"][0]["before"] == (30, 20)
    assert report.microseconds_after > 0
    assert all(layer.microseconds_before > 0 for layer in report.layers)
    assert all((layer.microseconds_after or 1) > 0 for layer in report.layers)


def test_outputs_in_sequences_and_mappings_are_compared():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(6, 8)

        def forward(self, x, y):
            return {"a": self.one(x), "b": (y, 3)}

    result = lp.compact(Two(), (torch.randn(2, 6), torch.randn(1)))
    assert result.report.difference == 0


def test_a_difference_is_an_error():
    class Random(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(6, 8)

        def forward(self, x):
            return self.one(x) + torch.rand(1)

    with pytest.raises(RuntimeError, match=r"differ from the model's by .* more than the .* allowed: raise tolerance"):
        lp.compact(Random(), torch.randn(2, 6))
    nan = preparation.difference(torch.tensor([torch.nan, 1.0]), torch.tensor([0.0, 1.0]))[0]
    assert nan != nan
    assert preparation.difference(torch.tensor([torch.nan]), torch.tensor([torch.nan]))[0] == 0


def test_a_layer_that_is_used_without_a_call_is_explained():
    class Opened(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(40, 40)

        def forward(self, x):
            if x.sum() > 1e9:
                return x
            return self.one(x) @ self.one.weight

    with pytest.raises(RuntimeError, match=r"fails on the example .*: name the layers .* keep="):
        lp.compact(trained(Opened(), 0.1), torch.randn(2, 40), goal="size")
    assert "SparseLinear" not in kinds(
        check(trained(Opened(), 0.1), torch.randn(2, 40), goal="size", keep=["one"]).model
    )


@pytest.mark.parametrize(
    ("model", "example", "options", "error", "message"),
    [
        (3, torch.ones(1), {}, TypeError, "takes an nn.Module, got int"),
        (nn.Linear(2, 2), "x", {}, TypeError, "example must be a tensor .* got str"),
        (nn.Linear(2, 2), [3], {}, TypeError, "example must be a tensor .* got list"),
        (nn.Linear(2, 2), torch.ones(1, 2), {"goal": "fast"}, ValueError, "goal must be .*, got 'fast'"),
        (nn.Linear(2, 2), torch.ones(1, 2), {"keep": "head"}, TypeError, "keep must be a sequence .* got 'head'"),
        (nn.Linear(2, 2), torch.ones(1, 2), {"keep": ["head"]}, ValueError, "keep='head' matches no layer"),
        (nn.Linear(2, 2), torch.ones(1, 2), {"tolerance": -1}, ValueError, "tolerance .* got -1"),
        (nn.Linear(2, 2), torch.ones(1, 2), {"tolerance": "x"}, TypeError, "tolerance .* got 'x'"),
        (nn.Linear(2, 2, device="meta"), torch.ones(1, 2), {}, ValueError, "the model is on meta: move it with .cpu"),
        (nn.Linear(2, 2), torch.ones(1, 2, device="meta"), {}, ValueError, "the example is on meta"),
    ],
)
def test_bad_arguments_are_explained(model, example, options, error, message):
    with pytest.raises(error, match=message):
        lp.compact(model, example, **options)


def test_a_model_that_returns_no_tensors_is_refused():
    class Silent(nn.Module):
        def forward(self, x):
            return None

    with pytest.raises(TypeError, match="must return tensors, got NoneType"):
        lp.compact(Silent(), torch.ones(1))
