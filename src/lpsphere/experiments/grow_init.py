"""Where new connections should start: their dual weight as a multiple kappa of the mean |v| of their neuron.

The scikit-learn digits; MLP 64-256-256-10, 20 epochs, each seed scored on another stratified fifth of the training
rows. kappa = 0 is the default of semi-pruning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lpsphere.experiments.runs import Runs, mean_and_sd
from lpsphere.training import TrainConfig

__all__ = ["grow_init"]

_BASE = TrainConfig(
    data="digits", hidden=(256, 256), epochs=20, batch_size=64, lr=0.02, other_lr=0.2, device="cpu", threads=1
)
_KAPPAS = (0.0, 0.25, 0.5, 1.0)


def grow_init(path: Path, seeds: int, command: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run the experiment, or what of it is missing in ``path``.

    Args:
        path: JSON file of the results, written after every run.
        seeds: Training seeds, 0 to seeds - 1; the same for every setting.
        command: The command line, for the record.
        tell: Called with a line after every run.

    Returns:
        The content of the file; its table has a row for each p, target sparsity and kappa.
    """
    runs = Runs(path, __doc__, _BASE, command, tell)
    table = []
    for p in (1.05, 1.15, 1.3):
        for target in (0.9, 0.98):
            for kappa in _KAPPAS:
                key = {"p": p, "target": target, "kappa": kappa}
                config = replace(_BASE, p=p, sparsity=target, grow_init=kappa)
                mean, spread = mean_and_sd(runs.accuracies(key, config, seeds, validation=True))
                table.append({**key, "validation_accuracy": mean, "sd": spread, "seeds": seeds})
    return runs.write(table)
