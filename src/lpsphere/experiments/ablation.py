"""What each part of a recipe is worth: the recipe with one setting changed at a time, on parts of the training rows.

Every change trains on the same splits with the same seeds as the recipe: four fifths of the training rows, scored on
the rest. The test rows are looked at by none. Where a recipe splits the rows anew for each seed, so does this: a row
that is tested in one split is then a training row of others.

Writes results/ablation/<data>-<method>-<sparsity>.json, from which it goes on; where that is of an earlier recipe or of
other epochs, the next free of -2.json, -3.json and so on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lpsphere.experiments.recipes import load_recipe
from lpsphere.experiments.runs import VALIDATION, Run, Runs, holds, mean_and_sd, paired_p_value
from lpsphere.experiments.table import Cell
from lpsphere.training import TrainConfig

__all__ = ["RECIPE", "ablate", "ablation_path", "variations"]

RECIPE = "the recipe"
"""What an unchanged recipe is called among its changes."""


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


def ablation_path(folder: Path, cell: Cell, method: str, config: TrainConfig) -> Path:
    """The file of a method in a cell, as its recipe is: the one that holds it, or a new one."""
    name = f"{cell.data}-{method}-{cell.sparsity:g}"
    paths = (folder / (f"{name}-{i}.json" if i > 1 else f"{name}.json") for i in itertools.count(1))
    return next(path for path in paths if not path.exists() or holds(path, config))


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
) -> tuple[Path, dict[str, Any]]:
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
        The file and its content; the table has a row for each change that the file holds, the best first: mean accuracy
        of the runs that came to an end, the difference to the recipe on the splits on which both did (mean, standard
        deviation, p of a paired t-test for splits that overlap; None where there is none), and how many runs diverged.

    Raises:
        TypeError, ValueError: If a change is not allowed, or there are no usual changes of the method.
    """
    recipe = load_recipe(cell.data)
    config = recipe.config(method, cell.sparsity)
    config = replace(config, epochs=epochs or config.epochs)
    changed = {RECIPE: {}, **(variations(config) if changes is None else changes)}
    wanted = [
        Run(
            {"change": name, "seed": split},
            recipe.with_seed(_changed(config, {**change, **(machine or {})}), split),
            split,
        )
        for name, change in changed.items()
        for split in range(splits)
    ]
    path = ablation_path(folder, cell, method, config)
    with Runs(path, __doc__, config, command, tell, processes) as runs:
        runs.results(wanted)
        return path, runs.write(_table(runs.runs))


def _changed(config: TrainConfig, change: Mapping[str, Any]) -> TrainConfig:
    return TrainConfig.from_dict({**config.to_dict(), **change})


def _table(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each change, the best first and those that diverged last."""
    scores: dict[str, dict[int, float | None]] = {}
    for run in runs:
        scores.setdefault(run["change"], {})[run["seed"]] = None if run.get("diverged") else float(run["accuracy"])
    rows = [_row(name, own, scores[RECIPE]) for name, own in scores.items()]
    return sorted(rows, key=lambda row: (row["diverged"], -(row["difference"] or 0.0)))


def _row(name: str, by_split: Mapping[int, float | None], of_recipe: Mapping[int, float | None]) -> dict[str, Any]:
    """Scores of a change; compared with the recipe on the splits on which both came to an end."""
    ended = [accuracy for accuracy in by_split.values() if accuracy is not None]
    pairs = [(accuracy, of_recipe[split]) for split, accuracy in by_split.items()]
    compared = [(a, b) for a, b in pairs if a is not None and b is not None]
    mean, spread = mean_and_sd([a - b for a, b in compared]) if compared else (None, None)
    ours, theirs = [a for a, _ in compared], [b for _, b in compared]
    return {
        "change": name,
        "validation_accuracy": mean_and_sd(ended)[0] if ended else None,
        "difference": mean,
        "sd": spread,
        "p_value": paired_p_value(ours, theirs, VALIDATION / (1 - VALIDATION)),
        "splits": len(by_split),
        "diverged": len(by_split) - len(ended),
    }
