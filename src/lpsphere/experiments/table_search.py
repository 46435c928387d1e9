"""A search for the settings of a recipe: for every method the same number of trials, on parts of the training rows.

Each trial trains on four fifths of the training rows and is scored on the rest, once a split; the test rows are looked
at by none. Where a recipe splits the rows anew for each seed, so do the trials: a row that is tested in one split is
then a training row of others. The first trial is the recipe as it was when the search began; then Optuna proposes
exponent, learning rates and the like. The best of many trials owes some of its score to chance: finalists are scored on
more splits to tell.

Writes results/table-search/<data>-<method>-<sparsity>.json, from which a search goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from lpsphere.experiments.recipes import Recipe, load_recipe
from lpsphere.experiments.runs import Run, Runs
from lpsphere.experiments.search import load_optuna, new_study
from lpsphere.experiments.table import Cell, command_for
from lpsphere.theory import p_for_training
from lpsphere.training import TrainConfig
from lpsphere.training.setup import method_settings

__all__ = ["FINAL", "Span", "search_cell", "search_path", "spaces"]


@dataclass(frozen=True)
class Span:
    """The values of a setting that a search may try.

    Attributes:
        low: The least, above ``origin``.
        high: The greatest, above ``origin``.
        log: Whether they are searched on a logarithmic scale.
        origin: What is added.
    """

    low: float
    high: float
    log: bool = True
    origin: float = 0.0

    def value(self, position: float) -> float:
        """The value of the setting, to three digits."""
        return round(self.origin + float(f"{position:.3g}"), 12)

    def position(self, value: float) -> float:
        """The place of a value in the span, or the nearest."""
        return min(max(value - self.origin, self.low), self.high)


FINAL = 3
"""On how many times the splits of a trial finalists are scored."""
_SMOOTHING, _DECAY = Span(0.0, 0.2, log=False), Span(1e-5, 5e-2)
_OF_OPTIMIZERS: Mapping[str, Mapping[str, Span]] = {
    "lpsgd": {
        "p": Span(0.03, 0.6, origin=1.0),
        "lr": Span(0.003, 0.3),
        "other_lr": Span(0.05, 0.6),
        "weight_decay": _DECAY,
        "label_smoothing": _SMOOTHING,
    },
    "sgd": {"lr": Span(0.005, 1.5), "weight_decay": _DECAY, "label_smoothing": _SMOOTHING},
    "adamw": {"lr": Span(1e-4, 2e-2), "weight_decay": Span(1e-4, 1.0), "label_smoothing": _SMOOTHING},
}
_OF_METHODS: Mapping[str, Mapping[str, Span]] = {
    "semi-pruning": {"regrow": Span(0.0, 0.6, log=False)},
    "set": {"drop_fraction": Span(0.1, 0.5, log=False)},
    "rigl": {"drop_fraction": Span(0.1, 0.5, log=False)},
}
_OF_TABLES: Mapping[str, Span] = {"dropout": Span(0.0, 0.6, log=False)}
"""Of the MLP, which all recipes of tables train."""


def spaces(config: TrainConfig) -> dict[str, Span]:
    """What is searched for a run: settings of its optimizer, of its method and, for tables, of the network."""
    of_network = _OF_TABLES if config.model in ("auto", "mlp") else {}
    return {**_OF_OPTIMIZERS[config.optimizer], **_OF_METHODS.get(config.method, {}), **of_network}


def search_path(folder: Path, cell: Cell, method: str) -> Path:
    """The file of a search."""
    return folder / f"{cell.data}-{method}-{cell.sparsity:g}.json"


def search_cell(
    cell: Cell,
    method: str,
    folder: Path,
    *,
    trials: int,
    splits: int,
    tell: Callable[[str], None],
    finalists: int = 1,
    processes: int = 1,
    deadline: float | None = None,
    machine: Mapping[str, Any] | None = None,
) -> str | None:
    """Search for the settings of a method in a cell of the table.

    Args:
        cell: The cell.
        method: The method.
        folder: Where the search is kept.
        trials: Settings that are tried; 1: the recipe alone.
        splits: Validation splits, and training seeds, that each is scored on.
        finalists: How many of the best are scored on `FINAL` times as many splits, to choose among them; 1: none.
        tell: Called with a line after every run.
        processes: How many runs train side by side.
        deadline: When to begin no further trial or final, in the seconds of `time.time`; None: never.
        machine: Settings that do not change what a run computes, such as data_dir and device.

    Returns:
        The best settings as lines for the recipe; None if the deadline came first.

    Raises:
        ModuleNotFoundError: If Optuna is not installed and ``trials`` is more than 1.
        ValueError: If the file holds a search of other shared settings.
    """
    whole = load_recipe(cell.data)
    recipe = whole.config(method, cell.sparsity)
    space, default = spaces(recipe), TrainConfig()
    base = replace(recipe, checkpoint_every=1, **{name: getattr(default, name) for name in space})
    study = new_study(load_optuna(), trials, seed=0) if trials > 1 else None
    command = f"{command_for([cell], [method], None)} --search --trials {trials} --splits {splits}"
    command += f" --finalists {finalists}" if finalists > 1 else ""
    scored: list[tuple[float, dict[str, float]]] = []

    def score(runs: Runs, values: Mapping[str, float], splits: int) -> float:
        return _score(runs, replace(recipe, **{**values, **(machine or {})}), values, splits, whole)

    path = search_path(folder, cell, method)
    with Runs(path, __doc__, base, command, tell, processes, start=_first(recipe, space)) as runs:
        for trial in range(trials):
            if deadline is not None and time.time() >= deadline:
                return None
            asked = None if trial == 0 or study is None else study.ask()
            values = runs.record["start"] if asked is None else _suggested(asked, space)
            accuracy = score(runs, values, splits)
            if study is not None and asked is not None:
                study.tell(asked, accuracy)
            elif study is not None:
                study.add_trial(_first_trial(space, values, accuracy))
            scored.append((accuracy, values))
        effort = {"trials": trials, "splits": splits}
        if finalists > 1:
            best = sorted(scored, key=itemgetter(0), reverse=True)[:finalists]
            scored = []
            for _, values in best:
                if deadline is not None and time.time() >= deadline:
                    return None
                scored.append((score(runs, values, FINAL * splits), values))
            effort |= {"finalists": finalists, "final_splits": FINAL * splits}
        accuracy, values = max(scored, key=itemgetter(0))
        runs.write([{"validation_accuracy": accuracy, **effort, **values}])
    own = whole.methods[method].get(None if method == "dense" else cell.sparsity, {})  # which these lines replace
    return _as_recipe(cell, method, {**own, **values})


def _first(config: TrainConfig, space: Mapping[str, Span]) -> dict[str, float]:
    """What the recipe says, with the defaults of its method where it says nothing."""
    values: dict[str, float] = {}
    for name in space:
        value = config.peak_lr if name == "lr" else getattr(config, name)
        if value == "auto":
            value = p_for_training(config.sparsity)
        if value is None:
            value = method_settings(config.method)[name]
        values[name] = float(value)
    return values


def _suggested(asked: Any, space: Mapping[str, Span]) -> dict[str, float]:
    return {
        name: span.value(asked.suggest_float(name, span.low, span.high, log=span.log)) for name, span in space.items()
    }


def _first_trial(space: Mapping[str, Span], values: Mapping[str, float], accuracy: float) -> Any:
    """What the recipe came to, for Optuna to learn from; what is outside of its span counts as its end."""
    optuna = load_optuna()
    float_distribution = optuna.distributions.FloatDistribution
    return optuna.trial.create_trial(
        params={name: span.position(values[name]) for name, span in space.items()},
        distributions={name: float_distribution(span.low, span.high, log=span.log) for name, span in space.items()},
        value=accuracy,
    )


def _score(runs: Runs, config: TrainConfig, values: Mapping[str, float], splits: int, recipe: Recipe) -> float:
    def run(seed: int) -> Run:
        return Run({**values, "seed": seed}, recipe.with_seed(config, seed), validation=seed)

    return fmean(float(result["accuracy"]) for result in runs.results([run(seed) for seed in range(splits)]))


def _as_recipe(cell: Cell, method: str, values: Mapping[str, Any]) -> str:
    """Lines to paste into the recipe."""
    key = f"{cell.sparsity:g}" if cell.sparsity else "default"
    own = yaml.safe_dump(dict(values), default_flow_style=True, sort_keys=False, width=10_000).strip()
    return f'# {cell.data}.yaml\nmethods:\n  {method}:\n    "{key}": {own}\n'
