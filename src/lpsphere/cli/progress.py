"""How training goes on: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from lpsphere.training import Progress, Trainer

__all__ = ["training_progress"]

_LINES = 100
_PATIENCE = 60.0


@contextmanager
def training_progress(console: Console, trainer: Trainer) -> Iterator[Callable[[Progress], None]]:
    """What to call after each step.

    On a terminal it moves a bar. Into a file, a pipe, a notebook or a terminal that cannot move its cursor it writes a
    line at the end of an epoch, at most a hundred of them, and in an epoch that takes minutes one a minute, again at
    most a hundred.

    Args:
        console: Where to.
        trainer: The run.
    """
    if not console.is_interactive:
        yield _lines(console, trainer)
        return
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
    )
    with Bar(*columns, console=console) as bar:
        epoch = f"{trainer.state.epoch}/{trainer.config.epochs}"
        task = bar.add_task("", total=trainer.total_steps, completed=trainer.step, epoch=epoch, state="")
        scores = ""

        def update(progress: Progress) -> None:
            nonlocal scores
            if progress.row:
                scores = _scores(progress.row) + "  "
            state = f"{scores}sparsity {progress.sparsity:.3f}"
            bar.update(task, completed=progress.step, epoch=f"{progress.epoch}/{progress.epochs}", state=state)

        yield update


def _lines(console: Console, trainer: Trainer) -> Callable[[Progress], None]:
    epochs = math.ceil(trainer.config.epochs / _LINES)
    last_step, last_time = trainer.step, time.monotonic()

    def update(progress: Progress) -> None:
        nonlocal last_step, last_time
        if progress.row is not None:
            due = progress.epoch % epochs == 0 or progress.epoch == progress.epochs
        else:
            due = (progress.step - last_step) * _LINES >= progress.total_steps
            due = due and time.monotonic() - last_time >= _PATIENCE
        if due:
            console.print(_line(progress), soft_wrap=True)
            last_step, last_time = progress.step, time.monotonic()

    return update


def _line(progress: Progress) -> str:
    epoch, sparsity = f"epoch {progress.epoch}/{progress.epochs}", f"sparsity {progress.sparsity:.4f}"
    if progress.row is None:
        return f"{epoch}  step {progress.step:,} of {progress.total_steps:,}  {sparsity}"
    return f"{epoch}  {_scores(progress.row, 'test ')}  {sparsity}  {progress.row['seconds']:.1f} s"


def _scores(row: dict[str, Any], rows: str = "") -> str:
    metric = "R2" if "test_r2" in row else "accuracy"
    value = row.get("test_r2", row.get("test_accuracy"))
    return f"loss {row['train_loss']:.4f}  {rows}{metric} {value:.4f}"
