"""``lpsphere train`` under torchrun: each process takes its part of every batch, one writes."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from processes import finish, torchrun
from safetensors.torch import load_file

from lpsphere.training import TrainConfig, Trainer, evaluate_run

pytestmark = pytest.mark.slow
SMALL = TrainConfig(
    hidden=(32, 32), epochs=4, device="cpu", norm=False, radius="init", method="rigl", every=10, threads=1
)
SECONDS = 240


def train(*arguments, count=2):
    return finish(torchrun("-m", "lpsphere", "train", *arguments, count=count))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("settings") / "config.yaml"
    path.write_text(SMALL.to_yaml())
    return path


@pytest.fixture(scope="module")
def together(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    code, output = train("--config", settings, "--out", folder / "run", "--trackers", "tensorboard")
    assert code == 0, output
    return folder / "run", output


def history(folder):
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same_run(folder, expected):
    ours, theirs = load_file(folder / "model.safetensors"), load_file(expected / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())
    assert history(folder) == history(expected)


def assert_similar_run(folder, expected):
    """Sums of other parts of a batch round otherwise."""
    for row, wanted in zip(history(folder), history(expected), strict=True):
        assert (row["step"], row["sparsity"]) == (wanted["step"], wanted["sparsity"])
        if row["kind"] == "epoch":
            assert row["train_loss"] == pytest.approx(wanted["train_loss"], rel=0.05)
            assert row["test_accuracy"] == pytest.approx(wanted["test_accuracy"], abs=0.05)


def test_two_processes_write_once_and_train_as_one_does(together, tmp_path):
    folder, output = together
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["processes"] == 2
    assert len(list(folder.glob("trackers/lpsphere/events.*"))) == 1
    assert output.count("epoch 4/4") == output.count("test accuracy  ") == 1
    again = evaluate_run(folder)
    assert again["test_accuracy"] == pytest.approx(summary["test_accuracy"])
    assert again["connections"] == summary["connections"]
    assert not any("module." in name for name in load_file(folder / "model.safetensors"))
    Trainer(SMALL, tmp_path).fit()
    first, second = history(folder)[0], history(tmp_path)[0]
    assert first == second  # the first update, before rounding has had time to matter
    assert_similar_run(folder, tmp_path)


@pytest.mark.parametrize("count", [1, 2])
def test_a_process_killed_at_an_update_leaves_a_checkpoint_to_go_on_from(together, settings, tmp_path, count):
    script = Path(__file__).parent / "killed.py"
    code, output = finish(torchrun(script, tmp_path / "run", 51, settings))
    assert code != 0, output
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())] == [
        "step-000000021",
        "step-000000042",
    ]
    code, output = train("--out", tmp_path / "run", "--resume", count=count)
    assert code == 0, output
    assert "after step 42" in output
    (assert_same_run if count == 2 else assert_similar_run)(tmp_path / "run", together[0])


def test_a_run_of_one_process_goes_on_in_two(settings, tmp_path):
    trainer = Trainer(SMALL, tmp_path / "run")
    with pytest.raises(RuntimeError, match="enough"):
        trainer.fit(lambda progress: stop_after(progress, 42))
    code, output = train("--out", tmp_path / "run", "--resume")
    assert code == 0, output
    Trainer(SMALL, tmp_path / "whole").fit()
    assert_similar_run(tmp_path / "run", tmp_path / "whole")


def stop_after(progress, step):
    if progress.step == step:
        raise RuntimeError("enough")


def test_a_run_that_is_told_to_stop_saves_once_and_goes_on(together, settings, tmp_path):
    process = torchrun(
        "-m", "lpsphere", "train", "--config", settings, "--out", tmp_path / "run", "--set", "epochs=400"
    )
    deadline = time.monotonic() + SECONDS
    while not (tmp_path / "run" / "checkpoints").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code != 0
    assert output.count("everything is saved") == 1, output


def test_a_batch_that_does_not_divide_is_an_error(settings, tmp_path):
    code, output = train("--config", settings, "--out", tmp_path / "run", "--batch-size", 63)
    assert code != 0
    assert "batch_size=63 does not divide over 2 processes" in output
    assert "--batch-size 62" in output
