"""Training runs of an experiment, kept in one JSON file from which an interrupted experiment goes on."""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from lpsphere.data import Dataset
from lpsphere.training import TrainConfig, Trainer
from lpsphere.training.files import replace_file

__all__ = ["Runs", "mean_and_sd"]

_KEPT = {"accuracy": "test_accuracy", "sparsity": "sparsity", "connections": "connections", "seconds": "seconds"}


class Runs:
    """The runs of an experiment and what they showed.

    Args:
        path: The JSON file, written after every run; runs that it holds are not run again.
        what: What the experiment is, for the record.
        base: The settings that all runs share, for the record.
        command: The command line, for the record.
        tell: Called with a line after every run.
    """

    def __init__(
        self, path: Path, what: str | None, base: TrainConfig, command: str, tell: Callable[[str], None]
    ) -> None:
        self.path, self.tell = path, tell
        self.record: dict[str, Any] = {
            "what": " ".join((what or "").split()),
            "command": command,
            "versions": {
                "lpsphere": version("lpsphere"),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "settings": base.to_dict(),
        }
        self.runs: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []

    def accuracies(self, key: dict[str, Any], config: TrainConfig, data: Sequence[Dataset]) -> list[float]:
        """The test accuracies of one setting, a seed for each entry of ``data``; those that the file lacks are trained.

        Args:
            key: What tells the setting from the others.
            config: The setting.
            data: What the run of each seed, 0 and up, trains on and is tested on.
        """
        return [self._accuracy({**key, "seed": s}, replace(config, seed=s), part) for s, part in enumerate(data)]

    def _accuracy(self, key: dict[str, Any], config: TrainConfig, data: Dataset) -> float:
        run = next((run for run in self.runs if key.items() <= run.items()), None)
        if run is None:
            with tempfile.TemporaryDirectory() as folder:
                result = Trainer(replace(config, checkpoint_every=config.epochs), Path(folder), data=data).fit()
            run = key | {name: result[entry] for name, entry in _KEPT.items()}
            self.runs.append(run)
            self.write([])
            self.tell(", ".join(f"{name} {value}" for name, value in key.items()) + f": accuracy {run['accuracy']:.4f}")
        return float(run["accuracy"])

    def write(self, table: list[dict[str, Any]]) -> dict[str, Any]:
        """Write the file, with ``table`` as its tidy result; returns its content."""
        result = {**self.record, "table": table, "runs": self.runs}
        text = json.dumps(result, indent=1) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return result


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; 0 for a single value."""
    return fmean(values), stdev(values) if len(values) > 1 else 0.0
