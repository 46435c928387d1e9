"""Accuracy against sparsity for several p, and for SGD without spheres, all with the same semi-pruning.

The scikit-learn digits, stratified 75/25; MLP 64-256-256-10, 20 epochs; learning rates as in _BASE for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lpsphere.experiments.runs import Runs, mean_and_sd
from lpsphere.training import TrainConfig
from lpsphere.training.files import replace_file
from lpsphere.training.setup import load_data

__all__ = ["plot", "sparsity"]

_BASE = TrainConfig(
    data="digits", hidden=(256, 256), epochs=20, batch_size=64, lr=0.02, other_lr=0.2, device="cpu", threads=1
)
_SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
_METHODS = {
    **{f"LpSGD, p = {p}": replace(_BASE, p=p) for p in (1.05, 1.1, 1.2, 1.5, 2.0)},
    "SGD": replace(_BASE, optimizer="sgd", lr=0.1),
}


def sparsity(path: Path, seeds: int, command: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run the experiment, or what of it is missing in ``path``, and draw it beside the file.

    Args:
        path: JSON file of the results, written after every run; the picture has the same name with .png.
        seeds: Training seeds, 0 to seeds - 1; the same for every setting.
        command: The command line, for the record.
        tell: Called with a line after every run.

    Returns:
        The content of the file; its table has a row for each method and sparsity.
    """
    runs = Runs(path, __doc__, _BASE, command, tell)
    data, table = load_data(_BASE), []
    for method, config in _METHODS.items():
        for target in _SPARSITIES:
            key = {"method": method, "target": target}
            mean, spread = mean_and_sd(runs.accuracies(key, replace(config, sparsity=target), [data] * seeds))
            table.append({**key, "test_accuracy": mean, "test_accuracy_sd": spread, "seeds": seeds})
    result = runs.write(table)
    replace_file(path.with_suffix(".png"), lambda temporary: plot(table).savefig(temporary, dpi=110, format="png"))
    return result


def plot(table: list[dict[str, Any]]) -> Figure:
    """Mean test accuracy with its standard deviation against sparsity, a line for each method.

    Args:
        table: Rows with method, target, test_accuracy and test_accuracy_sd.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    methods = list(dict.fromkeys(row["method"] for row in table))
    positions = {target: i for i, target in enumerate(sorted({row["target"] for row in table}))}
    for i, method in enumerate(methods):
        rows = [row for row in table if row["method"] == method]
        axes.errorbar(
            [positions[row["target"]] + 0.06 * (i - len(methods) / 2) for row in rows],
            [100 * row["test_accuracy"] for row in rows],
            [100 * row["test_accuracy_sd"] for row in rows],
            label=method,
            marker="o",
            markersize=4,
            capsize=2,
            linestyle="--" if method == "SGD" else "-",
            color="black" if method == "SGD" else None,
        )
    axes.set_xticks(list(positions.values()), [f"{100 * target:g} %" for target in positions])
    axes.set(xlabel="Sparsity (connections gone)", ylabel="Test accuracy (%)", title="Digits, MLP 64-256-256-10")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
