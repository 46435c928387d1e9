"""How training goes on: a bar on a terminal, a bounded number of plain lines elsewhere."""

import io
import os
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from lpsphere.cli import progress as module
from lpsphere.cli.progress import training_progress
from lpsphere.training import Progress

pty = pytest.importorskip("pty", reason="needs a Unix terminal")
QUICK = ("--data", "wine", "--epochs", "3", "--hidden", "16,16", "--device", "cpu", "--threads", "1")
ESCAPE = "\x1b"


def shown(console, epochs, steps=4, seconds=0.0, monkeypatch=None):
    """What a run of some epochs of some steps shows, a step every so many seconds."""
    now = 0.0
    if monkeypatch is not None:
        monkeypatch.setattr(module.time, "monotonic", lambda: now)
    config, state = SimpleNamespace(epochs=epochs), SimpleNamespace(epoch=0)
    trainer = SimpleNamespace(config=config, state=state, step=0, total_steps=epochs * steps)
    with training_progress(console, trainer) as on_step:
        for step in range(1, epochs * steps + 1):
            now += seconds
            row = {"train_loss": 0.5, "test_accuracy": 0.75, "seconds": 1.0} if step % steps == 0 else None
            on_step(Progress((step - 1) // steps + 1, epochs, step, epochs * steps, 0.9, row))
    return console.file.getvalue()


def plain(**more):
    return Console(file=io.StringIO(), **more)


def test_a_file_gets_a_line_for_each_epoch_without_control_characters():
    text = shown(plain(), epochs=3)
    assert text == "".join(
        f"epoch {epoch}/3  loss 0.5000  test accuracy 0.7500  sparsity 0.9000  1.0 s\n" for epoch in (1, 2, 3)
    )


@pytest.mark.parametrize("epochs", [100, 101, 400, 999])
def test_a_run_of_many_epochs_gets_a_hundred_lines_at_most_and_its_last(epochs):
    lines = shown(plain(), epochs).splitlines()
    assert 50 <= len(lines) <= 101
    assert lines[-1].startswith(f"epoch {epochs}/{epochs} ")


def test_an_epoch_of_hours_gets_a_line_now_and_then(monkeypatch):
    lines = shown(plain(), epochs=2, steps=5000, seconds=7.2, monkeypatch=monkeypatch).splitlines()
    assert 90 <= len(lines) <= 102
    assert lines[0] == "epoch 1/2  step 100 of 10,000  sparsity 0.9000"


def test_an_epoch_of_minutes_gets_no_more_than_a_line_a_minute(monkeypatch):
    lines = shown(plain(), epochs=1, steps=5000, seconds=0.1, monkeypatch=monkeypatch).splitlines()
    assert len(lines) in (8, 9)


def test_a_terminal_gets_a_bar_that_fits_it():
    text = shown(plain(force_terminal=True, width=80, color_system=None, _environ={"TERM": "xterm"}), epochs=120)
    assert ESCAPE in text
    last = text.split("\x1b[2K")[-1].split("\n")[0]
    assert last.startswith("epoch 120/120 ━")
    assert last.rstrip().endswith("loss 0.5000  accuracy 0.7500  sparsity 0.900 left 00:00")
    assert len(last.rstrip()) <= 80


def test_a_terminal_without_a_cursor_gets_lines():
    text = shown(plain(force_terminal=True, color_system=None, _environ={"TERM": "dumb"}), epochs=2)
    assert ESCAPE not in text
    assert text.count("\n") == 2


def test_a_notebook_gets_lines(monkeypatch):
    displayed = []
    console = plain(force_jupyter=True, color_system=None)
    monkeypatch.setattr("rich.jupyter.display", lambda segments, text: displayed.append(text))
    assert shown(console, epochs=2) == ""
    assert [text.split("  ")[0] for text in displayed] == ["epoch 1/2", "epoch 2/2"]
    assert not any(ESCAPE in text for text in displayed)


def run_in_terminal(folder, *words):
    """Standard output and error of a command line on a pseudo-terminal."""
    written = bytearray()
    command = [sys.executable, "-m", "lpsphere", "train", *QUICK, *words, "--out", str(folder)]

    def read(descriptor):
        part = os.read(descriptor, 65536)
        written.extend(part)
        return part

    status = pty.spawn(command, read, lambda descriptor: b"")
    assert status == 0, written.decode()
    return written.decode()


def test_the_command_line_draws_a_bar_on_a_terminal(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TERM", "xterm")
    text = run_in_terminal(tmp_path / "run")
    assert "\x1b[2Kepoch 3/3" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back


@pytest.mark.parametrize("colours", [False, True])
def test_the_command_line_draws_none_into_a_pipe_whatever_is_said_of_colours(tmp_path, monkeypatch, run_piped, colours):
    if colours:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    text = run_piped("train", *QUICK, "--out", tmp_path / "run")
    assert text.count("epoch ") == 3
    assert "\r" not in text
    assert "\x1b[2K" not in text
    assert (ESCAPE in text) == colours


def test_progress_can_be_switched_off(lpsphere):
    status, out, err = lpsphere("train", *QUICK, "--no-progress")
    assert (status, err) == (0, "")
    assert "epoch " not in out
    assert "test accuracy" in out
