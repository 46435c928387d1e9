import os
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file

QUICK = ("train", "--epochs", "8", "--hidden", "64,64", "--device", "cpu", "--threads", "1")
COMMAND = (sys.executable, "-c", "from lpsphere.cli import main; main()")


def start(folder, *words):
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*COMMAND, *words, "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def stop_after_epoch(process, epoch, number):
    for line in process.stdout:
        if line.startswith(f"epoch {epoch}/"):
            process.send_signal(number)
            break
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interruption") / "whole"
    assert start(folder, *QUICK).wait(120) == 0
    return folder


def assert_complete(folder):
    assert not [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size == 0]
    for path in folder.glob("checkpoints/step-*"):
        assert load_file(path / "model.safetensors")


@pytest.mark.parametrize("epoch", [1, 4])
def test_a_killed_run_resumes_bit_for_bit(whole, tmp_path, epoch):
    status, _, _ = stop_after_epoch(start(tmp_path / "run", *QUICK), epoch, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert_complete(tmp_path / "run")
    assert start(tmp_path / "run", "train", "--resume").wait(120) == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_ctrl_c_saves_says_how_to_go_on_and_resumes_bit_for_bit(whole, tmp_path):
    status, out, err = stop_after_epoch(start(tmp_path / "run", *QUICK), 3, signal.SIGINT)
    assert (status, err) == (130, "")
    assert "everything is saved" in out
    assert "--resume" in out
    assert_complete(tmp_path / "run")
    assert start(tmp_path / "run", "train", "--resume").wait(120) == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("epoch", range(1, 20))
def test_the_demo_resumes_bit_for_bit_after_any_epoch(demo, tmp_path, epoch, number):
    stop_after_epoch(start(tmp_path / "run", "train"), epoch, number)
    assert_complete(tmp_path / "run")
    assert start(tmp_path / "run", "train", "--resume").wait(120) == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (demo / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interruption") / "demo"
    assert start(folder, "train").wait(120) == 0
    return folder
