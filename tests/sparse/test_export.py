"""export(): what is written comes back, in few bytes, or not at all."""

import importlib.util
import json
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import lpsphere as lp
from lpsphere.models import MLP, WideResNet
from lpsphere.sparse import SparseLinear
from lpsphere.sparse.encoding import decode, encode


def masked(density=0.05, sizes=(784, (300, 100), 10)):
    torch.manual_seed(0)
    model = MLP(*sizes)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_buffer("weight_mask", torch.rand(module.weight.shape) < density)
    return lp.apply_masks(model)


def identical(one, other):
    assert list(one) == list(other)
    for name, value in one.items():
        assert value.dtype == other[name].dtype, name
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("with_masks", [True, False])
def test_a_sparse_file_is_small_and_gives_back_the_state(tmp_path, with_masks):
    model = masked()
    if not with_masks:
        for module in model.modules():
            module._buffers.pop("weight_mask", None)
    record = lp.export(model, tmp_path / "m.sparse.safetensors")
    assert record.format == "sparse"
    assert record.bytes == (tmp_path / "m.sparse.safetensors").stat().st_size
    dense = lp.export(model, tmp_path / "m.safetensors")
    assert record.bytes < 0.15 * dense.bytes
    assert record.dense_bytes == dense.dense_bytes <= dense.bytes
    state = lp.load_export(tmp_path / "m.sparse.safetensors")
    identical(model.state_dict(), state)
    model.load_state_dict(state)


def test_a_dense_file_is_a_plain_state_dict_for_any_reader(tmp_path):
    model = masked()
    lp.export(model, tmp_path / "m.safetensors")
    state = load_file(tmp_path / "m.safetensors")
    assert sorted(state) == sorted(MLP(784, (300, 100), 10).state_dict())
    MLP(784, (300, 100), 10).load_state_dict(lp.load_export(tmp_path / "m.safetensors"))
    assert torch.equal(state["head.weight"], model.head.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_without_connections_and_connections_of_weight_zero_come_back(tmp_path, dtype):
    layer = nn.Linear(300, 40).to(dtype)
    mask = torch.rand(40, 300) < 0.1
    mask[[0, 7, 39]] = False
    layer.register_buffer("weight_mask", mask)
    lp.apply_masks(layer)
    with torch.no_grad():
        layer.weight[1] = 0
    lp.export(layer, tmp_path / "m.sparse.safetensors")
    state = lp.load_export(tmp_path / "m.sparse.safetensors")
    identical(layer.state_dict(), state)
    assert state["weight_mask"][1].any()


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_layers_without_and_with_all_connections_come_back(tmp_path, density):
    model = masked(density, (20, (10,), 3))
    lp.export(model, tmp_path / "m.sparse.safetensors")
    identical(model.state_dict(), lp.load_export(tmp_path / "m.sparse.safetensors"))


@pytest.mark.parametrize("start", [0.0, torch.nan, torch.inf])
def test_convolutions_and_values_that_are_not_finite_come_back(tmp_path, start):
    model = WideResNet((1, 1, 1), 4, 3, 5)
    with torch.no_grad():
        model.stage2[0].conv1.weight.fill_(0).view(-1)[5] = start
    lp.export(model, tmp_path / "m.sparse.safetensors")
    state = lp.load_export(tmp_path / "m.sparse.safetensors")
    assert list(state) == list(model.state_dict())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0, equal_nan=True)


def test_sparse_layers_come_back_as_such_and_are_dense_in_a_dense_file(tmp_path):
    model = nn.Sequential(SparseLinear(300, 40, sparsity=0.9), nn.ReLU(), SparseLinear(40, 3, sparsity=0.5))
    record = lp.export(model, tmp_path / "m.sparse.safetensors")
    assert record.bytes < record.dense_bytes
    state = lp.load_export(tmp_path / "m.sparse.safetensors")
    identical(model.state_dict(), state)
    new = nn.Sequential(SparseLinear(300, 40, sparsity=0.5), nn.ReLU(), SparseLinear(40, 3, sparsity=0.9))
    new.load_state_dict(state)
    assert torch.equal(new(torch.ones(2, 300)), model(torch.ones(2, 300)))
    dense = lp.export(model, tmp_path / "m.safetensors")
    assert dense.dense_bytes == record.dense_bytes
    assert lp.load_export(tmp_path / "m.safetensors")["0.weight"].shape == (40, 300)
    single = lp.export(model[0], tmp_path / "one.safetensors")
    assert single.dense_bytes == 4 * (300 * 40 + 40)


def test_weights_under_a_mask_are_written_as_zeros_and_the_model_keeps_them(tmp_path):
    model = masked()
    with torch.no_grad():
        model.head.weight.fill_(1)
    for name in ("m.sparse.safetensors", "m.safetensors"):
        lp.export(model, tmp_path / name)
        assert torch.equal(lp.load_export(tmp_path / name)["head.weight"], model.head.weight_mask.float())
    assert model.head.weight.all()


def test_weights_that_layers_share_are_written_for_each(tmp_path):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    for name in ("m.safetensors", "m.sparse.safetensors"):
        lp.export(model, tmp_path / name)
        state = lp.load_export(tmp_path / name)
        assert torch.equal(state["1.weight"], state["0.weight"])


def test_structures_are_kept_in_the_smallest_integers():
    counts = torch.tensor([2, 0, 3])
    for width, kind in ((256, torch.uint8), (65_536, torch.uint16), (2**31, torch.int32)):
        columns = torch.tensor([0, width - 1, 1, 2, width // 2])
        small, gaps = encode(counts, columns)
        assert (small.dtype, gaps.dtype) == (torch.uint8, kind if width > 256 else torch.uint8)
        assert torch.equal(decode(small, gaps, width), columns)


def test_a_program_computes_the_same_for_any_batch(tmp_path):
    model = masked()
    for rows in (1, 4):
        record = lp.export(model, tmp_path / "m.pt2", example=torch.randn(rows, 784))
        program = lp.load_export(tmp_path / "m.pt2")
        x = torch.randn(7, 784)
        torch.testing.assert_close(program(x), model.eval()(x), rtol=1e-5, atol=1e-5)
    assert record.format == "pt2"


def test_a_compacted_model_can_be_exported(tmp_path):
    x = torch.randn(4, 784)
    small = lp.compact(masked(), x, goal="size").model
    lp.export(small, tmp_path / "m.pt2", example=x)
    torch.testing.assert_close(lp.load_export(tmp_path / "m.pt2")(x), small(x), rtol=1e-5, atol=1e-5)
    lp.export(small, tmp_path / "m.sparse.safetensors")
    identical(small.state_dict(), lp.load_export(tmp_path / "m.sparse.safetensors"))


def test_onnx_is_written_and_checked(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    record = lp.export(masked(), tmp_path / "m.onnx", example=torch.randn(1, 784))
    loaded = lp.load_export(tmp_path / "m.onnx")
    assert record.bytes > record.dense_bytes
    batch, width = loaded.graph.input[0].type.tensor_type.shape.dim
    assert (bool(batch.dim_param), width.dim_value) == (True, 784)
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        lp.load_export(tmp_path / "m.onnx")


def test_without_its_packages_onnx_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"ONNX needs onnx and onnxscript: pip install 'lpsphere\[onnx\]'"):
        lp.export(masked(), tmp_path / "m.onnx", example=torch.randn(1, 784))
    (tmp_path / "m.onnx").touch()
    with pytest.raises(ModuleNotFoundError, match=r"lpsphere\[onnx\]"):
        lp.load_export(tmp_path / "m.onnx")


def test_the_record_is_readable_and_plain(tmp_path):
    record = lp.export(masked(), tmp_path / "new" / "m.sparse.safetensors")
    assert "% of the dense tensors), loads in" in str(record)
    assert record.seconds_to_load > 0
    json.dumps(record.to_dict())


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.sparse.safetensors"
    lp.export(masked(), path)
    old = path.read_bytes()
    module = sys.modules["lpsphere.sparse.export"]
    monkeypatch.setattr(module, "read_tensors", lambda path: {})
    with pytest.raises(RuntimeError, match="what was written differs from the model by inf"):
        lp.export(masked(0.1), path)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def damaged(path, change):
    """Write a file anew, with something changed in its tensors or its header."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["lpsphere.sparse"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, header)
    save_file(tensors, path, {"lpsphere.sparse": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, h: t.update({"weight#gaps": t["weight#gaps"] + 1}), "an entry is in column .* of 300"),
        (lambda t, h: t["weight#counts"].add_(1), "the rows have .* entries"),
        (lambda t, h: t.update({"weight#counts": t["weight#counts"][1:].clone()}), "has 39 neurons"),
        (lambda t, h: t.update({"weight#values": t["weight#values"][1:].clone()}), "values and .* places"),
        (lambda t, h: t.pop("weight#gaps"), "weight#gaps"),
        (lambda t, h: t.pop("bias"), "bias"),
        (lambda t, h: h.update(version=2), "is of version 2, and this lpsphere reads 1"),
        (lambda t, h: h.pop("tensors"), "tensors"),
    ],
)
def test_a_damaged_sparse_file_is_refused(tmp_path, change, message):
    layer = nn.Linear(300, 40)
    with torch.no_grad():
        layer.weight.mul_(torch.rand(40, 300) < 0.5).fill_diagonal_(1)
        layer.weight[:, -1] = 1
        layer.weight.mul_(torch.rand(40, 300) < 0.3)
        layer.weight[:, -1] = 1
    path = tmp_path / "m.sparse.safetensors"
    lp.export(layer, path)
    damaged(path, change)
    with pytest.raises(ValueError, match=f"cannot be read .*{message}.*restore the file, or export the model again"):
        lp.load_export(path)


@pytest.mark.parametrize("name", ["m.safetensors", "m.sparse.safetensors", "m.pt2"])
def test_a_truncated_file_is_refused(tmp_path, name):
    lp.export(masked(), tmp_path / name, example=torch.randn(2, 784))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{name} (cannot be read|is damaged)"):
        lp.load_export(tmp_path / name)


class Untraceable(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "name", "options", "error", "message"),
    [
        (3, "m.pt2", {}, TypeError, "takes an nn.Module, got int"),
        (nn.Linear(2, 2), "m.bin", {}, ValueError, "the suffix of 'm.bin' says nothing .* choose .sparse.safetensors"),
        (nn.Linear(2, 2), "m.pt2", {"format": "zip"}, ValueError, "format must be one of safetensors, .* got 'zip'"),
        (nn.Linear(2, 2), "m.pt2", {"format": "sparse"}, ValueError, "must end in .safetensors.* got 'm.pt2'"),
        (nn.Linear(2, 2), "m.pt2", {}, ValueError, "pass example=x"),
        (nn.Linear(2, 2), "m.onnx", {}, ValueError, "pass example=x"),
        (nn.Linear(2, 2), "m.pt2", {"example": "x"}, TypeError, "example must be a tensor .* got str"),
        (Untraceable(), "m.pt2", {"example": torch.ones(2)}, RuntimeError, "torch.export cannot export the model"),
    ],
)
def test_bad_arguments_are_explained(tmp_path, model, name, options, error, message):
    with pytest.raises(error, match=message):
        lp.export(model, tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_is_no_tensor_is_refused(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(TypeError, match="the state_dict has '_extra_state', dict: only tensors can be written"):
        lp.export(Extra(2, 2), tmp_path / "m.safetensors")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"m.pt2 does not exist"):
        lp.load_export(tmp_path / "m.pt2")
