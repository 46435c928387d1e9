"""The benchmark table: data sets, sparsities, methods and seeds by their recipes, a results file for each run.

Writes results/table/<data>-<method>-<sparsity>-seed<k>.json once a run has ended; until then the run's own folder in
runs/table holds its checkpoints, from which it goes on. Several processes may train the same table, each what no other
is at.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lpsphere.experiments.processes import pool, side_by_side
from lpsphere.experiments.recipes import DATA, TABLE_METHODS, load_recipe
from lpsphere.experiments.runs import mean_and_sd
from lpsphere.training import Interrupted, Progress, TrainConfig, Trainer
from lpsphere.training.config import MAY_CHANGE, changes
from lpsphere.training.files import exclusive, remove_folder, replace_text

__all__ = [
    "Cell",
    "Places",
    "TableRun",
    "cells_of_methods",
    "command_for",
    "overview",
    "parse_cells",
    "parse_methods",
    "read_results",
    "table_runs",
    "train_table",
]

_NEWS = 60.0  # seconds between two lines of a run under way
_KEPT = ("test_accuracy", "test_balanced_accuracy", "test_auc", "test_loss", "epochs", "parameters")
_COUNTED = ("selected_weights", "connections", "seconds")

Tell = Callable[[str], None]
Outcome = Callable[[], "dict[str, Any] | None"]
"""Gives the record of a run, None if it was stopped, or raises what went wrong."""


@dataclass(frozen=True)
class Cell:
    """A data set at a sparsity; 0 for dense networks."""

    data: str
    sparsity: float

    def __str__(self) -> str:
        """As on the command line: "dna:0.9", or "dna" for dense networks."""
        return f"{self.data}:{self.sparsity:g}" if self.sparsity else self.data


@dataclass(frozen=True)
class Places:
    """Where a table is kept.

    Attributes:
        results: Folder of the results files.
        runs: Folder of the runs' folders.
    """

    results: Path = Path("results/table")
    runs: Path = Path("runs/table")


@dataclass(frozen=True)
class TableRun:
    """One training of the table.

    Attributes:
        cell: Data set and sparsity.
        method: The method.
        config: Its settings, with the seed.
        command: A command that trains it, for the record.
    """

    cell: Cell
    method: str
    config: TrainConfig
    command: str

    @property
    def name(self) -> str:
        """Of its results file, without .json, and of its folder."""
        return f"{self.cell.data}-{self.method}-{self.cell.sparsity:g}-seed{self.config.seed}"


def parse_cells(text: str | None) -> list[Cell]:
    """Cells from a text such as "fashion-mnist:0.9,dna"; a data set alone stands for all its sparsities, None for all.

    Raises:
        ValueError: If the table has no such cell, or it is given twice.
    """
    cells: list[Cell] = []
    for part in DATA if text is None else text.split(","):
        data, colon, sparsity = part.strip().partition(":")
        known = load_recipe(data).sparsities
        if not colon:
            cells += [Cell(data, value) for value in known]
            continue
        chosen = next((value for value in known if f"{value:g}" == sparsity or str(value) == sparsity), None)
        if chosen is None:
            listed = ", ".join(f"{data}:{value:g}" for value in known)
            raise ValueError(f"the table has no cell {part.strip()!r}: choose from {listed}, or {data} for all of them")
        cells.append(Cell(data, chosen))
    if len(set(cells)) < len(cells):
        raise ValueError(f"a cell is given twice in {text!r}")
    return cells


def parse_methods(text: str | None) -> list[str]:
    """Methods from a text such as "semi-pruning,rigl"; None: semi-pruning.

    Raises:
        ValueError: If a method is unknown or given twice.
    """
    methods = ["semi-pruning"] if text is None else [part.strip() for part in text.split(",")]
    unknown = [method for method in methods if method not in TABLE_METHODS]
    if unknown:
        raise ValueError(f"unknown method {', '.join(map(repr, unknown))}: choose from {', '.join(TABLE_METHODS)}")
    if len(set(methods)) < len(methods):
        raise ValueError(f"a method is given twice in {text!r}")
    return methods


def command_for(cells: Sequence[Cell], methods: Sequence[str], seeds: int | None) -> str:
    """The command that trains these cells; a data set stands for all its cells where all are there."""
    words: list[str] = []
    for data in dict.fromkeys(cell.data for cell in cells):
        own = [cell for cell in cells if cell.data == data]
        every = {cell.sparsity for cell in own} >= set(load_recipe(data).sparsities)
        dense = {cell.sparsity for cell in own} == {0.0}
        words += [data] if every or dense else [str(cell) for cell in own if cell.sparsity]
    command = f"lpsphere reproduce table --cells {','.join(words)} --methods {','.join(methods)}"
    return command if seeds is None else f"{command} --seeds {seeds}"


def cells_of_methods(cells: Sequence[Cell], methods: Sequence[str]) -> list[tuple[Cell, str]]:
    """Each method in each cell; a dense network counts once for a data set."""
    pairs = ((Cell(cell.data, 0.0) if method == "dense" else cell, method) for cell in cells for method in methods)
    return list(dict.fromkeys(pairs))


def table_runs(
    cells: Sequence[Cell],
    methods: Sequence[str],
    seeds: int,
    *,
    device: str = "auto",
    threads: int | None = None,
    data_dir: str | None = None,
) -> list[TableRun]:
    """The runs of some cells, all cells of a seed before the next seed; a dense network counts once for a data set."""
    runs = []
    for seed in range(seeds):
        for cell, method in cells_of_methods(cells, methods):
            config = load_recipe(cell.data).config(method, cell.sparsity, seed)
            config = replace(config, device=device, threads=threads, data_dir=data_dir)
            runs.append(TableRun(cell, method, config, command_for([cell], [method], seeds)))
    return runs


def train_table(
    runs: Sequence[TableRun],
    places: Places,
    *,
    processes: int = 1,
    deadline: float | None = None,
    tell: Tell = lambda line: None,
) -> int:
    """Train what has no results file yet.

    Args:
        runs: The runs.
        places: Where they are kept.
        processes: How many train side by side.
        deadline: When to stop, all saved, in the seconds of `time.time`; None: at the end.
        tell: Called with a line after every run, and once a minute in between if there is one process.

    Returns:
        How many runs are left; those that another process is at are among them.

    Raises:
        ValueError: If a file or a folder holds a run of other settings; nothing is trained then.
        FloatingPointError: If a run diverges; once no other is left that could be trained.
        Interrupted: After Ctrl-C; all is saved.
    """
    left = [run for run in runs if not _finished(run, places)]
    for run in left:
        _check_folder(run, places.runs / run.name)
    with closing(_trained(left, places, processes, deadline, tell)) as trained:
        settled = [_settle(run, outcome, tell) for run, outcome in trained]
    diverged = [error for error in settled if error is not None]
    missing = sum(not _finished(run, places) for run in left)
    if diverged and (len(diverged) == missing or not _past(deadline)):
        raise diverged[0]
    return missing


def _trained(
    left: Sequence[TableRun], places: Places, processes: int, deadline: float | None, tell: Tell
) -> Generator[tuple[TableRun, Outcome], None, None]:
    """Each run that began before the deadline, with what gives its record or raises what went wrong."""
    if processes == 1 or len(left) < 2:
        for run in left:
            if _past(deadline):
                return
            yield run, partial(train_run, run, places, deadline, tell)
        return
    calls = [(run, places, deadline) for run in left]
    with pool(processes) as executor:
        for place, future in side_by_side(executor, processes, train_run, calls, lambda: not _past(deadline)):
            yield left[place], future.result


def _settle(run: TableRun, outcome: Outcome, tell: Tell) -> FloatingPointError | None:
    """Say what came of a run; returns how it diverged, which keeps no other from its turn."""
    try:
        record = outcome()
    except BlockingIOError as error:
        tell(f"{run.name}: {error}")
    except FloatingPointError as error:
        tell(str(error))
        return error
    else:
        ended = record and f"accuracy {record['test_accuracy']:.4f}, {record['seconds']:.1f} s"
        tell(f"{run.name}: {ended or 'stopped, all saved'}")
    return None


def train_run(
    run: TableRun, places: Places, deadline: float | None = None, tell: Tell | None = None
) -> dict[str, Any] | None:
    """Train a run to its end from wherever it is, and write its results file; None if the deadline stopped it.

    Raises:
        BlockingIOError: If another process is at it.
        FloatingPointError: If it diverges.
        Interrupted: After Ctrl-C; all is saved.
    """
    if _past(deadline):
        return None
    folder = places.runs / run.name
    with exclusive(folder, wait=False):
        if _finished(run, places):  # by another process, in the meantime
            return _read(places.results / f"{run.name}.json")
        return _train(run, places, folder, deadline, tell)


def _train(
    run: TableRun, places: Places, folder: Path, deadline: float | None, tell: Tell | None
) -> dict[str, Any] | None:
    trainer = Trainer(run.config, folder, resume=True, command=run.command)
    news = time.time()

    def on_step(progress: Progress) -> None:
        nonlocal news
        if _past(deadline):
            trainer.stop()
        if tell is not None and progress.row and time.time() > news + _NEWS:
            news = time.time()
            score = progress.row["test_accuracy"]
            tell(f"{run.name}: epoch {progress.epoch} of {progress.epochs}, test accuracy {score:.4f}")

    try:
        result = trainer.fit(on_step)
    except Interrupted:
        if _past(deadline):
            return None
        raise
    except FloatingPointError as error:
        raise FloatingPointError(
            f"{run.name}: training diverged in epoch {trainer.state.epoch + 1}. Lower lr or other_lr in the recipe of "
            f"{run.cell.data} and remove the folder {folder}"
        ) from error
    record, path = _record(run, result), places.results / f"{run.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1) + "\n"
    replace_text(path, text)
    remove_folder(folder / "checkpoints")
    return record


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results files of a folder, ordered by data set, method, target and seed.

    Raises:
        ValueError: If a file is not what `train_run` writes.
    """
    records = []
    order = {name: i for i, name in enumerate((*DATA, *TABLE_METHODS))}
    for path in sorted(folder.glob("*.json")):
        record = _read(path)
        known = record.get("data") in order and record.get("method") in order
        if not (known and {"target", "seed", "test_accuracy"} <= set(record)):
            raise ValueError(f"{path} is no result of lpsphere reproduce table: move it elsewhere")
        records.append(record)
    return sorted(records, key=lambda r: (order[r["data"]], order[r["method"]], r["target"], r["seed"]))


def overview(records: Sequence[dict[str, Any]], runs: Sequence[TableRun]) -> list[dict[str, Any]]:
    """A row for each cell and method of some runs: accuracy over the seeds that have ended, beside the paper's."""
    rows = []
    for cell, method in dict.fromkeys((run.cell, run.method) for run in runs):
        key = (cell.data, cell.sparsity, method)
        found = [r["test_accuracy"] for r in records if (r["data"], r["target"], r["method"]) == key]
        mean, spread = mean_and_sd(found) if found else ("-", "-")
        published = load_recipe(cell.data).paper.accuracy.get(cell.sparsity)
        rows.append(
            {
                "data": cell.data,
                "sparsity": cell.sparsity,
                "method": method,
                "test_accuracy": mean,
                "sd": spread,
                "seeds": len(found),
                "paper": "-" if published is None else published,
            }
        )
    return rows


def _record(run: TableRun, result: dict[str, Any]) -> dict[str, Any]:
    default = TrainConfig().to_dict()
    settings = {
        name: value for name, value in run.config.to_dict().items() if value != default[name] and name not in MAY_CHANGE
    }
    return {
        "data": run.cell.data,
        "method": run.method,
        "target": run.cell.sparsity,
        "seed": run.config.seed,
        "sparsity": result["sparsity"],
        **{name: result[name] for name in (*_KEPT, *_COUNTED) if name in result},
        "device": torch.cuda.get_device_name() if result["device"] == "cuda" else result["device"],
        "precision": result["mixed_precision"],
        "threads": result["threads"],
        "versions": result["versions"],
        "settings": settings,
        "command": run.command,
    }


def _finished(run: TableRun, places: Places) -> bool:
    """Whether a run has a results file.

    Raises:
        ValueError: If that is of other settings.
    """
    path = places.results / f"{run.name}.json"
    if not path.exists():
        return False
    differing = changes(TrainConfig.from_dict(_read(path).get("settings", {})), run.config)
    if differing:
        raise ValueError(
            f"{path} holds a run with {differing}: the recipe has changed since. Remove that file and "
            f"{places.runs / run.name} to train it again, or keep the results of both with another --out"
        )
    return True


def _check_folder(run: TableRun, folder: Path) -> None:
    if not (folder / "config.yaml").exists():
        return
    differing = changes(TrainConfig.load(folder / "config.yaml"), run.config)
    if differing:
        raise ValueError(
            f"{folder} holds an unfinished run with {differing}: the recipe has changed since. Remove that folder to "
            "start it anew, or give another --out"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): remove it, and its run is trained again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no result of a run: remove it, and its run is trained again")
    return content


def _past(deadline: float | None) -> bool:
    return deadline is not None and time.time() >= deadline
