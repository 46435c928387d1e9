import pytest
import torch

import lpsphere as lp
from lpsphere.training.checkpoints import load_model

QUICK = ("--epochs", 1, "--hidden", "16,16", "--device", "cpu", "--threads", 1, "--data", "wine")


@pytest.mark.parametrize("name", ["net.safetensors", "net.sparse.safetensors", "deep/net.pt2"])
def test_a_finished_run_is_exported(lpsphere, tmp_path, name):
    lpsphere("train", *QUICK, "--out", "run")
    status, out, err = lpsphere("export", "run", "--to", name)
    assert (status, err) == (0, "")
    assert f"{name}: " in out
    assert "loads in" in out
    model, loaded = load_model(tmp_path / "run" / "model.safetensors").eval(), lp.load_export(tmp_path / name)
    if name.endswith("pt2"):
        x = torch.randn(9, 13)
        torch.testing.assert_close(loaded(x), model(x), rtol=1e-5, atol=1e-5)
    else:
        assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("empty", "--to", "a.pt2"), "empty holds no run: give a folder that lpsphere train wrote"),
        (("run", "--to", "a.bin"), "the suffix of 'a.bin' says nothing about its format"),
        (("run", "--to", "a.pt2", "--format", "sparse"), "a file of format 'sparse' must end in .safetensors"),
        (
            ("run", "--to", "a.pt2", "--format", "zip"),
            "format must be one of safetensors, sparse, onnx, pt2; got 'zip'",
        ),
        (("run", "--to", "file/a.safetensors"), "file"),
    ],
)
def test_what_cannot_be_exported_is_explained(lpsphere, tmp_path, words, message):
    lpsphere("train", *QUICK, "--out", "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    status, _, err = lpsphere("export", *words)
    assert status == 2
    assert message in " ".join(err.split())


def test_export_explains_itself(lpsphere):
    status, out, _ = lpsphere("export", "--help")
    assert status == 0
    assert "Usage: lpsphere export" in out
