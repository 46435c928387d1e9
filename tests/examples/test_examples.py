import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, *words, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def last_number(text):
    return float(text.strip().split()[-1])


def test_the_plain_loop_reaches_its_sparsity_and_predicts_well(capsys, monkeypatch):
    found = run("plain_loop", monkeypatch=monkeypatch)
    assert "sparsity 0.9000: 2,458 of 24,576 selected weights are connections" in capsys.readouterr().out
    assert found["accuracy"] > 0.96


def test_what_was_resumed_is_what_was_never_interrupted(tmp_path, capsys):
    main = runpy.run_path(str(EXAMPLES / "resume.py"))["main"]
    whole, _ = main(["--file", str(tmp_path / "whole.pt")])
    _, step = main(["--file", str(tmp_path / "part.pt"), "--stop-after", "60"])
    assert step == 60
    part, _ = main(["--file", str(tmp_path / "part.pt")])
    assert "going on after step 60" in capsys.readouterr().out
    for (name, expected), found in zip(whole.state_dict().items(), part.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, msg=name)


def test_a_table_in_a_pipeline_of_scikit_learn(capsys, monkeypatch):
    found = run("sklearn_tables", monkeypatch=monkeypatch)
    out = capsys.readouterr().out
    assert out.count("on the folds") == 3
    assert "proline" in out
    assert "the same after pickling: True" in out
    assert found["best"][-1].sparsity_ == pytest.approx(
        found["search"].best_params_["lpsphereclassifier__sparsity"], abs=1e-3
    )
    assert last_number(out) > 0.9


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="needs the extra lightning")
def test_lightning(capsys, monkeypatch):
    run("lightning_digits", monkeypatch=monkeypatch)
    words = capsys.readouterr().out.strip().splitlines()[-1].replace(",", "").split()
    values = dict(zip(words[::2], map(float, words[1::2]), strict=True))
    assert values["accuracy"] > 0.88
    assert values["sparsity"] == 0.9


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the extra transformers")
def test_the_trainer_of_transformers(capsys, monkeypatch):
    run("transformers_trainer", monkeypatch=monkeypatch)
    out = capsys.readouterr().out
    assert "sparsity 0.8000: 13,926 of 69,632 selected weights are connections" in out
    assert last_number(out) > 0.95


@pytest.mark.parametrize("method", ["semi-pruning", "rigl", "dense"])
def test_a_character_level_gpt(tmp_path, capsys, monkeypatch, method):
    small = ("--width", 32, "--heads", 2, "--blocks", 2, "--length", 32, "--batch", 16, "--steps", 60, "--report", 20)
    found = run("char_gpt", "--method", method, *small, "--out", tmp_path / "gpt.json", monkeypatch=monkeypatch)
    result = found["result"]
    assert result["sparsity"] == pytest.approx(0.0 if method == "dense" else 0.9, abs=1e-4)
    assert [entry["step"] for entry in result["curve"]] == [20, 40, 60]
    assert result["curve"][-1]["validation"] < result["curve"][0]["validation"] < 4.6
    assert (tmp_path / "gpt.json").exists()
    assert f"at sparsity {result['sparsity']:.4f}" in capsys.readouterr().out


def test_several_processes_keep_the_same_connections():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    found = subprocess.run(
        [*command, str(EXAMPLES / "several_processes.py")], capture_output=True, text=True, timeout=180
    )
    assert found.returncode == 0, found.stderr
    assert "2 processes, masks equal: True, sparsity 0.9000" in found.stdout
    assert last_number(found.stdout) > 0.95
