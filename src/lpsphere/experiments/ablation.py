"""What each part of a recipe is worth: the recipe with one setting changed at a time, on parts of the training rows.

Every change trains on the same splits with the same seeds as the recipe: four fifths of the training rows, scored on
the rest. The test rows are looked at by none. Where a recipe splits the rows anew for each seed, so does this: a row
that is tested in one split is then a training row of others.

Writes results/ablation/<data>-<method>-<sparsity>.json, from which it goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lpsphere.experiments.recipes import load_recipe
from lpsphere.experiments.runs import VALIDATION, Run, Runs, mean_and_sd, paired_p_value
from lpsphere.experiments.table import Cell
from lpsphere.training import TrainConfig

__all__ = ["ablate", "ablation_path", "variations"]

_RECIPE = "the recipe"


def variations(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """What is changed about a recipe of semi-pruning, by what to call it; what the recipe has already is left out.

    Raises:
        ValueError: For another method.
    """
    if config.method != "semi-pruning":
        raise ValueError(f"the usual changes are those of semi-pruning: say what to change about {config.method}")
    fine = max(1, config.epochs // 10)
    candidates: dict[str, dict[str, Any]] = {
        "p = 1.05": {"p": 1.05},
        "p = 1.15": {"p": 1.15},
        "p = 1.3": {"p": 1.3},
        "p = 1.5": {"p": 1.5},
        'p = "auto"': {"p": "auto"},
        "p = 1.3 in the first layer": {"first_p": 1.3, "first_layers": 1},
        "half the learning rate of the spheres": {"lr": config.peak_lr / 2},
        "twice the learning rate of the spheres": {"lr": min(1.0, 2 * config.peak_lr)},
        "half the learning rate of the rest": {"other_lr": config.other_lr / 2},
        "twice the learning rate of the rest": {"other_lr": 2 * config.other_lr},
        "cosine schedule": {"schedule": "cosine"},
        "regrow nothing": {"regrow": 0.0},
        "regrow 0.6": {"regrow": 0.6},
        "new connections at half the mean |v|": {"grow_init": 0.5},
        "dense at the start": {"initial_sparsity": 0.0},
        "evolve until the half": {"end": 0.5},
        "Erdos-Renyi densities at the start": {"distribution": "erk"},
        "the authors' adaptation": {"adaptation": "paper"},
        "primal form": {"form": "primal"},
        "no label smoothing": {"label_smoothing": 0.0},
        "label smoothing 0.1": {"label_smoothing": 0.1},
        "no weight decay": {"weight_decay": 0.0},
        "radius as initialised": {"radius": "init"},
        f"mean of the last {fine} epochs' weights": {"average": fine},
        "SGD without spheres": {"optimizer": "sgd", "p": 1.15, "lr": 0.1},
    }
    return {name: change for name, change in candidates.items() if replace(config, **change) != config}


def ablation_path(folder: Path, cell: Cell, method: str) -> Path:
    """The file of a method in a cell."""
    return folder / f"{cell.data}-{method}-{cell.sparsity:g}.json"


def ablate(
    cell: Cell,
    method: str,
    folder: Path,
    *,
    splits: int,
    command: str,
    tell: Callable[[str], None],
    processes: int = 1,
    epochs: int | None = None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    machine: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train the recipe of a method and its variations, or what of them is missing.

    Args:
        cell: Data set and sparsity.
        method: The method.
        folder: Where the file is kept.
        splits: Validation splits, and training seeds, of each.
        command: The command line, for the record.
        tell: Called with a line after every run.
        processes: How many networks train side by side.
        epochs: Passes over the training rows; None: the recipe's.
        changes: What is changed, by what to call it; None: `variations`.
        machine: Settings that do not change what a run computes, such as data_dir and device.

    Returns:
        The content of the file; its table has a row for each change that the file holds, the best first: mean accuracy,
        the difference to the recipe on the same splits (mean, standard deviation, p of a paired t-test for splits that
        overlap), and how many of its runs diverged.

    Raises:
        TypeError, ValueError: If a change is not allowed, or the file holds runs of another recipe, or there are no
            usual changes of the method.
    """
    recipe = load_recipe(cell.data)
    config = recipe.config(method, cell.sparsity)
    config = replace(config, epochs=epochs or config.epochs)
    changed = {_RECIPE: {}, **(variations(config) if changes is None else changes)}
    wanted = [
        Run(
            {"change": name, "seed": split},
            recipe.with_seed(_changed(config, {**change, **(machine or {})}), split),
            split,
        )
        for name, change in changed.items()
        for split in range(splits)
    ]
    with Runs(ablation_path(folder, cell, method), __doc__, config, command, tell, processes) as runs:
        runs.results(wanted)
        return runs.write(_table(runs.runs))


def _changed(config: TrainConfig, change: Mapping[str, Any]) -> TrainConfig:
    return TrainConfig.from_dict({**config.to_dict(), **change})


def _table(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each change, the best first; one that diverged counts as accuracy 0."""
    scores: dict[str, dict[int, float]] = {}
    diverged: Counter[str] = Counter()
    for run in runs:
        scores.setdefault(run["change"], {})[run["seed"]] = float(run["accuracy"])
        diverged[run["change"]] += bool(run.get("diverged"))
    rows = [_row(name, own, scores[_RECIPE]) | {"diverged": diverged[name]} for name, own in scores.items()]
    return sorted(rows, key=lambda row: -row["difference"])


def _row(name: str, by_split: Mapping[int, float], of_recipe: Mapping[int, float]) -> dict[str, Any]:
    accuracies, recipe = list(by_split.values()), [of_recipe[split] for split in by_split]
    mean, spread = mean_and_sd([ours - theirs for ours, theirs in zip(accuracies, recipe, strict=True)])
    return {
        "change": name,
        "validation_accuracy": mean_and_sd(accuracies)[0],
        "difference": mean,
        "sd": spread,
        "p_value": paired_p_value(accuracies, recipe, VALIDATION / (1 - VALIDATION)),
        "splits": len(accuracies),
    }
