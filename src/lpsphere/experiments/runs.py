"""Training runs of an experiment, kept in one JSON file from which an interrupted experiment goes on."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean, stdev
from types import TracebackType
from typing import Any

from scipy.stats import t as student_t

from lpsphere.data import Dataset, holdout
from lpsphere.experiments.processes import pool, side_by_side
from lpsphere.training import TrainConfig, Trainer
from lpsphere.training.files import exclusive, replace_text
from lpsphere.training.record import versions
from lpsphere.training.setup import load_data

__all__ = ["VALIDATION", "Run", "Runs", "holds", "mean_and_sd", "paired_p_value"]

VALIDATION = 0.2
"""Fraction of the training rows that a run with a validation split is scored on."""

_KEPT = {
    "accuracy": "test_accuracy",
    "sparsity": "sparsity",
    "connections": "connections",
    "training_flops": "training_flops",
    "training_flops_dense": "training_flops_dense",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        key: What tells it from the others of its experiment.
        config: Its settings.
        validation: Seed of a stratified split of the training rows: train on four fifths, score on the rest, and
            leave the test rows alone; None: train on all and score on the test rows.
    """

    key: dict[str, Any]
    config: TrainConfig
    validation: int | None = None


class Runs:
    """The runs of an experiment and what they showed; a context manager, which ends its processes.

    Args:
        path: The JSON file, written after every run; runs that it holds are not run again. Other processes may add to
            it meanwhile.
        what: What the experiment is, for the record.
        base: The settings that all runs share, for the record.
        command: The command line, for the record.
        tell: Called with a line after every run.
        processes: How many runs train side by side.
        start: Where the experiment starts, for the record; a file that says so already keeps its own.
        measure: Says more of each trained network, in plain values; a function of a module, to reach other processes.

    Raises:
        ValueError: If the file holds runs of other settings.
    """

    def __init__(
        self,
        path: Path,
        what: str | None,
        base: TrainConfig,
        command: str,
        tell: Callable[[str], None],
        processes: int = 1,
        start: dict[str, Any] | None = None,
        measure: Callable[[Trainer], dict[str, Any]] | None = None,
    ) -> None:
        self.path, self.tell, self.processes, self.measure = path, tell, processes, measure
        self.record: dict[str, Any] = {
            "what": " ".join((what or "").split()),
            "command": command,
            "versions": versions(),
            "settings": _settings(base),
            **({} if start is None else {"start": start}),
        }
        self.table: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self._executor: Executor | None = None
        saved = self._add_saved()
        if saved is not None:
            self.table = saved["table"]
            if saved["versions"] != self.record["versions"]:
                tell(f"the runs so far are of {saved['versions']}, new ones of {self.record['versions']}")
            if "start" in saved:
                self.record["start"] = saved["start"]

    def __enter__(self) -> Runs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown()

    def results(self, runs: Sequence[Run]) -> list[dict[str, Any]]:
        """The results of some runs, in their order; those that the file lacks are trained.

        Returns:
            For each run its key, accuracy, sparsity, connections, dead neurons, FLOPs and seconds of training; only
            accuracy 0 and ``diverged`` of a run that diverged.
        """
        missing = [run for run in runs if self._find(run.key) is None]
        if self.processes == 1 or len(missing) < 2:
            for run in missing:
                self._keep(run, train_once(run.config, run.validation, self.measure))
        else:
            if self._executor is None:
                self._executor = pool(self.processes)
            calls, failed = [(run.config, run.validation, self.measure) for run in missing], None
            for place, future in side_by_side(self._executor, self.processes, train_once, calls):
                failed = failed or future.exception()  # what is done is kept, whatever becomes of the others
                if future.exception() is None:
                    self._keep(missing[place], future.result())
            if failed is not None:
                raise failed
        return [found for run in runs if (found := self._find(run.key)) is not None]

    def accuracies(
        self, key: dict[str, Any], config: TrainConfig, seeds: int, *, validation: bool = False
    ) -> list[float]:
        """The accuracies of one setting for the seeds 0 to seeds - 1, on as many validation splits or the test rows."""
        runs = [
            Run({**key, "seed": seed}, replace(config, seed=seed), seed if validation else None)
            for seed in range(seeds)
        ]
        return [float(result["accuracy"]) for result in self.results(runs)]

    def _find(self, key: dict[str, Any]) -> dict[str, Any] | None:
        return next((run for run in self.runs if key.items() <= run.items()), None)

    def _keep(self, run: Run, result: dict[str, Any]) -> None:
        self.runs.append(run.key | result)
        self.write(self.table)
        key = ", ".join(f"{name} {_short(value)}" for name, value in run.key.items())
        self.tell(f"{key}: accuracy {result['accuracy']:.4f}")

    def write(self, table: list[dict[str, Any]]) -> dict[str, Any]:
        """Write the file, with ``table`` as its tidy result and what others have added; returns its content."""
        with exclusive(self.path, wait=True):
            self._add_saved()
            self.table = table
            result = {**self.record, "table": table, "runs": sorted(self.runs, key=_order)}
            replace_text(self.path, json.dumps(result, indent=1) + "\n")
        return result

    def _add_saved(self) -> dict[str, Any] | None:
        """Take over the runs of the file that are not here; returns its content. Runs of other versions say which."""
        if not self.path.exists():
            return None
        saved: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        _check_settings(saved["settings"], self.record["settings"], self.path)
        known, ours = {_order(run) for run in self.runs}, self.record["versions"]
        of_others = {} if saved["versions"] == ours else {"versions": saved["versions"]}
        added = [run for run in saved["runs"] if _order(run) not in known]
        self.runs += [run | (of_others | run) for run in added]  # behind what runs are told apart by
        return saved


def train_once(
    config: TrainConfig, validation: int | None, measure: Callable[[Trainer], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Train, score and measure one run; keeps no files. A run that diverges scores 0 and says so."""
    data = _data(replace(TrainConfig(), **{name: getattr(config, name) for name in _DATA}))
    if validation is not None:
        data = holdout(data, VALIDATION, validation)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(replace(config, checkpoint_every=config.epochs), Path(folder), data=data)
        try:
            result = trainer.fit()
        except FloatingPointError:
            return {"accuracy": 0.0, "diverged": True}
        measured = {} if measure is None else measure(trainer)
    kept = {name: result[entry] for name, entry in _KEPT.items()}
    return {**kept, "dead": sum(layer["dead"] for layer in result["layers"]), **measured}


def _order(run: dict[str, Any]) -> str:
    """What the runs of a file are sorted by: what tells them apart, which comes before what they showed."""
    return json.dumps(dict(list(run.items())[: list(run).index("accuracy")]))


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; 0 for a single value."""
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def paired_p_value(ours: Sequence[float], theirs: Sequence[float], overlap: float = 0.0) -> float | None:
    """P of a paired t-test; None where all differences are the same but for rounding, and there is nothing to test.

    Args:
        ours: A score for each pair.
        theirs: The other's.
        overlap: Where each pair is of another random split of the same rows: tested rows / training rows. The splits
            are then not independent of each other, and the variance of the mean is taken as (1 / n + overlap) times
            that of the differences (Nadeau and Bengio, Inference for the generalization error, 2003).
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    if len({round(difference, 12) for difference in differences}) < 2:
        return None
    n = len(differences)
    return float(2 * student_t.sf(abs(fmean(differences)) / (stdev(differences) * (1 / n + overlap) ** 0.5), n - 1))


_DATA = ("data", "label_column", "task", "missing", "test_fraction", "split_seed", "data_dir")


@lru_cache(maxsize=1)
def _data(config: TrainConfig) -> Dataset:
    return load_data(config)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def holds(path: Path, config: TrainConfig) -> bool:
    """Whether the runs of a file are of this base."""
    return not _differing(json.loads(path.read_text(encoding="utf-8"))["settings"], _settings(config))


def _settings(base: TrainConfig) -> dict[str, Any]:
    return replace(base, data_dir=None).to_dict()


def _differing(saved: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What differs between settings, such as "epochs 2 (now 3)"."""
    saved = TrainConfig().to_dict() | saved  # a setting that did not exist yet had what is now its default
    return [f"{name} {saved[name]} (now {ours.get(name)})" for name in sorted(saved) if saved[name] != ours.get(name)]


def _check_settings(saved: dict[str, Any], ours: dict[str, Any], path: Path) -> None:
    differing = _differing(saved, ours)
    if differing:
        changes = ", ".join(differing[:5])
        raise ValueError(f"{path} holds runs with {changes}: give the same settings, or write elsewhere with --out")
