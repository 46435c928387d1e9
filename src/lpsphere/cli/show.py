"""What the command line prints: the run before it, the outcome after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lpsphere.neurons import select
from lpsphere.training import Trainer
from lpsphere.training.setup import sphere_groups

__all__ = ["describe_run", "show_result", "show_table"]


def describe_run(trainer: Trainer) -> Table:
    """What is about to be trained, on what."""
    config, data = trainer.config, trainer.data
    table = Table(show_header=False, box=None, pad_edge=False)
    what = f"{len(data.classes)} classes" if data.classes else "one target"
    shape = " x ".join(str(n) for n in data.input_shape)
    table.add_row(
        "data",
        f"{data.name}: {len(data.x_train):,} rows to train, {len(data.x_test):,} to test; {shape} inputs, {what}",
    )
    parameters = sum(param.numel() for param in trainer.plain_model.parameters())
    table.add_row("network", f"{trainer.plain_model.config['kind']}, {parameters:,} parameters")
    selected = select(trainer.plain_model, include_last=config.include_last)
    which = "the output layer too" if config.include_last else "all but the output layer"
    weights = f"{sum(n.weight.numel() for n in selected):,} weights in {len(selected)} tensors ({which})"
    sphere = f"hidden layers on Lp spheres, p = {config.p}" if config.optimizer == "lpsgd" else config.optimizer
    if config.first_p is not None:
        sphere += f" ({config.first_p} in the first {config.first_layers})"
    table.add_row("selected", f"{weights}, {sphere}")
    if config.optimizer == "lpsgd":
        for reason in sphere_groups(config, trainer.plain_model).reasons:
            table.add_row("", reason)
    if trainer.topology is not None:
        table.add_row(
            "method", f"{config.method}, from sparsity {trainer.topology.initial_sparsity:.4g} to {config.sparsity:.4g}"
        )
    else:
        table.add_row("method", "dense")
    table.add_row(
        "training", f"{config.epochs} epochs, {trainer.total_steps:,} steps of {trainer.batch_size}, seed {config.seed}"
    )
    table.add_row("folder", str(trainer.folder))
    if config.trackers:
        table.add_row("trackers", ", ".join(config.trackers))
    if trainer.step:
        table.add_row("resumed", f"after step {trainer.step:,}")
    return table


def show_result(console: Console, result: dict[str, Any], report: Path) -> None:
    """The key figures, the layers and where the report is."""
    table = Table(show_header=False, box=None, pad_edge=False)
    if "test_accuracy" in result:
        table.add_row("test accuracy", f"[bold]{result['test_accuracy']:.4f}[/bold]")
    else:
        table.add_row("test R2", f"[bold]{result['test_r2']:.4f}[/bold], RMSE {result['test_rmse']:.4g}")
    table.add_row(
        "sparsity",
        f"[bold]{result['sparsity']:.4f}[/bold]: {result['connections']:,} of {result['selected_weights']:,} "
        f"connections left ({result['parameters']:,} parameters in the dense network)",
    )
    table.add_row("training", f"{result['seconds']:.1f} s on {result['device']}")
    table.add_row("report", f"[bold]{report}[/bold]")
    console.print(table, soft_wrap=True)


def show_table(console: Console, rows: list[dict[str, Any]]) -> None:
    """The tidy result of an experiment."""
    table = Table(*(name.replace("_", " ") for name in rows[0]), box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
