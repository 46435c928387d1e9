"""Digits at sparsity 0.9 against dense SGD: one network, one budget, learning rates chosen by validation.

The scikit-learn digits, stratified 75/25; MLP 64-256-256-10, 20 epochs. For each method every setting of a grid of
twelve is trained on four fifths of the training rows and scored on the rest, another stratified split for each seed;
the best setting then trains on all training rows and is tested, once a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lpsphere.experiments.runs import Runs, mean_and_sd
from lpsphere.training import TrainConfig

__all__ = ["digits"]

_BASE = TrainConfig(data="digits", hidden=(256, 256), epochs=20, batch_size=64, device="cpu", threads=1)
_SGD_RATES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)
_GRIDS = {
    "LpSGD, semi-pruning": [
        replace(_BASE, sparsity=0.9, lr=lr, other_lr=other_lr)
        for lr in (0.005, 0.01, 0.02, 0.03)
        for other_lr in (0.1, 0.2, 0.4)
    ],
    "SGD, dense": [replace(_BASE, method="dense", optimizer="sgd", lr=lr) for lr in _SGD_RATES],
}


def digits(path: Path, seeds: int, command: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run the experiment, or what of it is missing in ``path``.

    Args:
        path: JSON file of the results, written after every run.
        seeds: Training seeds, 0 to seeds - 1; the same for every method and setting.
        command: The command line, for the record.
        tell: Called with a line after every run.

    Returns:
        The content of the file; its table has a row for each method.
    """
    runs = Runs(path, __doc__, _BASE, command, tell)
    table = []
    for method, grid in _GRIDS.items():
        scores = []
        for config in grid:
            key = {"method": method, "part": "validation", "lr": config.lr, "other_lr": config.other_lr}
            scores.append(mean_and_sd(runs.accuracies(key, config, seeds, validation=True))[0])
        best = grid[scores.index(max(scores))]
        key = {"method": method, "part": "test", "lr": best.lr, "other_lr": best.other_lr}
        mean, spread = mean_and_sd(runs.accuracies(key, best, seeds))
        table.append(
            {
                "method": method,
                "lr": best.lr,
                "other_lr": best.other_lr if best.optimizer == "lpsgd" else best.lr,
                "validation_accuracy": max(scores),
                "test_accuracy": mean,
                "test_accuracy_sd": spread,
                "seeds": seeds,
            }
        )
    return runs.write(table)
