"""Accuracy against sparsity for several p, and for SGD without spheres, all with the same semi-pruning.

The scikit-learn digits, stratified 75/25; MLP 64-256-256-10, 20 epochs; peak learning
rates 0.02 on spheres and 0.2 elsewhere, 0.1 for SGD.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lpsphere.experiments.plots import accuracy_against_sparsity, save_figure
from lpsphere.experiments.runs import Runs, mean_and_sd
from lpsphere.training import TrainConfig

__all__ = ["sparsity"]

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
    runs, table = Runs(path, __doc__, _BASE, command, tell), []
    for method, config in _METHODS.items():
        for target in _SPARSITIES:
            key = {"method": method, "target": target}
            mean, spread = mean_and_sd(runs.accuracies(key, replace(config, sparsity=target), seeds))
            table.append(
                {
                    "method": method,
                    "target": target,
                    "test_accuracy": mean,
                    "test_accuracy_sd": spread,
                    "seeds": seeds,
                }
            )
    result = runs.write(table)
    figure = accuracy_against_sparsity(table, "Digits, MLP 64-256-256-10", baseline="SGD")
    save_figure(path.with_suffix(".png"), figure)
    return result
