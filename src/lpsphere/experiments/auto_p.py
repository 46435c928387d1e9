"""Which p suits which sparsity, and how good p="auto" is beside the best fixed p.

Multilayer perceptrons with semi-pruning: digits 64-256-256-10 and DNA 180-256-256-3 for 20 epochs, Fashion-MNIST
784-300-100-10 for 5. A grid of p is scored on three validation splits at several sparsities, from which the two
constants of `lpsphere.theory.p_for_training` are chosen; then the grid and "auto" on the test rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from lpsphere.experiments.runs import Run, Runs, mean_and_sd
from lpsphere.theory import p_for_training
from lpsphere.theory.training import calibrated_p
from lpsphere.training import TrainConfig

__all__ = ["CONDITIONS", "EXPONENTS", "best_constants", "readable", "study_auto_p", "validated"]

EXPONENTS = (1.05, 1.1, 1.15, 1.2, 1.3, 1.5, 2.0)
"""The fixed p."""

_COMMON = TrainConfig(model="mlp", lr=0.02, other_lr=0.2, device="cpu", threads=1)
CONDITIONS = {
    "digits": replace(_COMMON, data="digits"),
    "dna": replace(_COMMON, data="dna"),
    "fashion-mnist": replace(_COMMON, data="fashion-mnist", hidden=(300, 100), batch_size=256, epochs=5),
}
"""The trainings, but for p, sparsity and seed, by data set."""

_FIVE = (0.5, 0.8, 0.9, 0.95, 0.98)
_VALIDATED = {"digits": _FIVE, "dna": _FIVE, "fashion-mnist": (0.9, 0.98)}
_TESTED = {"digits": (0.9, 0.98), "dna": (0.9, 0.98), "fashion-mnist": (0.9,)}
_SPLITS = 3


def study_auto_p(
    folder: Path,
    conditions: Mapping[str, TrainConfig],
    *,
    seeds: int,
    processes: int = 1,
    command: str,
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Train what is missing in the files of the data sets, and compare "auto" with the grid.

    Args:
        folder: Where auto-p-DATA.json is written, after every run.
        conditions: The trainings, by data set.
        seeds: Training seeds on the test rows.
        processes: How many networks train side by side, a thread each.
        command: The command line, for the record.
        tell: Called with a line after every run, and with the constants that the validation favours.

    Returns:
        A row for each data set and sparsity.
    """
    scores: list[dict[str, Any]] = []
    for name, config in conditions.items():
        with _runs(folder, name, config, command, tell, processes) as runs:
            scores += validated(name, runs.results(_grid(config, _VALIDATED[name], _SPLITS, validation=True)))
    dense, per_decade, loss = best_constants(scores)
    tell(f"validation favours the weak fraction {dense:g} and {per_decade:g} a decade; at worst {loss:.2f} sd are lost")
    table = []
    for name, config in conditions.items():
        with _runs(folder, name, config, command, tell, processes) as runs:
            results = runs.results(_grid(config, _TESTED[name], seeds, validation=False))
            rows = [_compare(name, target, results) for target in _TESTED[name]]
            runs.write(rows)
        table += rows
    return table


def _runs(
    folder: Path, name: str, config: TrainConfig, command: str, tell: Callable[[str], None], processes: int
) -> Runs:
    return Runs(folder / f"auto-p-{name}.json", __doc__, config, command, tell, processes)


def _grid(config: TrainConfig, targets: Sequence[float], count: int, *, validation: bool) -> list[Run]:
    """A run for each sparsity, p and seed; on the test rows for "auto" too."""
    exponents: list[Any] = [*EXPONENTS] if validation else [*EXPONENTS, "auto"]
    return [
        Run(
            {
                "part": "validation" if validation else "test",
                "target": target,
                "p": p,
                **({"auto_p": p_for_training(target)} if p == "auto" else {}),
                "seed": seed,
            },
            replace(config, sparsity=target, p=p, seed=seed),
            seed if validation else None,
        )
        for target, p, seed in itertools.product(targets, exponents, range(count))
    ]


def validated(name: str, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean validation accuracy by p and the spread between splits, a row for each sparsity of a data set."""
    rows = []
    for target in sorted({run["target"] for run in results}):
        scores = {
            p: mean_and_sd([run["accuracy"] for run in results if run["target"] == target and run["p"] == p])
            for p in EXPONENTS
        }
        spread = math.sqrt(fmean(sd**2 for _, sd in scores.values()))
        rows.append({"data": name, "target": target, "accuracy": {p: m for p, (m, _) in scores.items()}, "sd": spread})
    return rows


def best_constants(scores: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """The weak fraction of dense training and its slope that lose the least validation accuracy against each best p.

    What is lost counts in units of the spread between splits, and the row that loses most decides: p shall be good
    everywhere.
    The accuracies of each row are smoothed by a parabola in log(p - 1), since single means are noisy.

    Args:
        scores: What `validated` returns, of all data sets.

    Returns:
        Fraction, slope per decade of density, and what is lost in the worst row.
    """
    places = np.log(np.array(EXPONENTS) - 1)
    curves = [np.polynomial.Polynomial.fit(places, [row["accuracy"][p] for p in EXPONENTS], 2) for row in scores]
    fine = np.linspace(places[0], places[-1], 200)
    best = [float(curve(fine).max()) for curve in curves]

    def lost(constants: tuple[float, float]) -> float:
        chosen = [float(np.log(calibrated_p(row["target"], *constants) - 1)) for row in scores]
        losses = [top - curve(x) for top, curve, x in zip(best, curves, chosen, strict=True)]
        return max(float(loss / row["sd"]) for loss, row in zip(losses, scores, strict=True))

    fractions = [round(0.2 + 0.05 * i, 2) for i in range(14)]
    slopes = [round(0.02 * i, 2) for i in range(1, 16)]
    dense, per_decade = min(itertools.product(fractions, slopes), key=lost)
    return dense, per_decade, lost((dense, per_decade))


def _compare(name: str, target: float, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def accuracy(p: object) -> tuple[float, float]:
        return mean_and_sd([run["accuracy"] for run in results if run["target"] == target and run["p"] == p])

    fixed = {p: accuracy(p) for p in EXPONENTS}
    best = max(fixed, key=lambda p: fixed[p][0])
    auto, auto_sd = accuracy("auto")
    return {
        "data": name,
        "sparsity": target,
        "best_p": best,
        "best_accuracy": fixed[best][0],
        "best_sd": fixed[best][1],
        "worst_accuracy": min(mean for mean, _ in fixed.values()),
        "auto_p": p_for_training(target),
        "auto_accuracy": auto,
        "auto_sd": auto_sd,
        "within_one_sd": auto >= fixed[best][0] - fixed[best][1],
    }


def readable(table: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The table with readable headings and rounded figures."""
    return [
        {
            "data": row["data"],
            "sparsity": f"{row['sparsity']:g}",
            "best fixed p": f"{row['best_p']:g}",
            "its test accuracy (%)": f"{100 * row['best_accuracy']:.2f} ± {100 * row['best_sd']:.2f}",
            "worst of the grid": f"{100 * row['worst_accuracy']:.2f}",
            "auto p": f"{row['auto_p']:.4g}",
            "its test accuracy (%) ": f"{100 * row['auto_accuracy']:.2f} ± {100 * row['auto_sd']:.2f}",
            "within one sd": "yes" if row["within_one_sd"] else "no",
        }
        for row in table
    ]
