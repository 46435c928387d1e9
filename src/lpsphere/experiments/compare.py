"""Methods compared on equal terms: one network, one data set, one budget and schedule.

For every method and sparsity the learning rates are searched with the same number of trials, each scored on the same
stratified splits of the training rows; the best then train on all training rows and are tested, once a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scipy.stats import ttest_rel

from lpsphere.experiments.plots import accuracy_against_sparsity
from lpsphere.experiments.runs import Run, Runs, mean_and_sd
from lpsphere.experiments.search import Found, search
from lpsphere.topology import METHODS
from lpsphere.training import TrainConfig
from lpsphere.training.files import replace_file

__all__ = ["Entry", "compare", "markdown", "parse_methods", "readable"]


@dataclass(frozen=True)
class Entry:
    """One line of a comparison: a method, and the optimizer that trains with it."""

    method: str
    optimizer: str

    def __str__(self) -> str:
        """As on the command line."""
        return f"{self.method} ({self.optimizer})"


def parse_methods(text: str) -> list[Entry]:
    """From "dense,rigl,semi-pruning"; "rigl:lpsgd" names the optimizer, which is LpSGD for semi-pruning, else SGD.

    Raises:
        ValueError: If a method or optimizer is unknown, or one is given twice.
    """
    entries = []
    for part in text.split(","):
        method, _, optimizer = part.strip().partition(":")
        if method not in (*METHODS, "dense"):
            raise ValueError(f"unknown method {method!r}: choose from {', '.join(('dense', *METHODS))}")
        optimizer = optimizer or ("lpsgd" if method == "semi-pruning" else "sgd")
        replace(TrainConfig(), optimizer=optimizer)  # refuses an unknown one
        entries.append(Entry(method, optimizer))
    if len(set(entries)) < len(entries):
        raise ValueError(f"a method is given twice in {text!r}")
    return entries


def compare(
    path: Path,
    base: TrainConfig,
    entries: Sequence[Entry],
    sparsities: Sequence[float],
    *,
    seeds: int,
    trials: int,
    splits: int,
    reference: Entry,
    command: str,
    tell: Callable[[str], None],
    processes: int = 1,
) -> dict[str, Any]:
    """Run the comparison, or what of it is missing in ``path``; draw it and write its table as Markdown beside it.

    Args:
        path: JSON file of the results; the picture and the table have the same name with .png and .md.
        base: What all runs share.
        entries: The methods.
        sparsities: Target sparsities of the methods other than dense.
        seeds: Training seeds of the test runs, 0 to seeds - 1, the same for every method.
        trials: Learning rates tried for each method and sparsity.
        splits: Validation splits that each is scored on.
        reference: The method that each is compared with by a paired t-test over the seeds.
        command: The command line, for the record.
        tell: Called with a line after every run.
        processes: How many runs train side by side.

    Returns:
        The content of the file; its table has a row for each method and sparsity.
    """
    settings = [_setting(base, entry, sparsity) for entry in entries for sparsity in _sparsities(entry, sparsities)]
    with Runs(path, __doc__, base, command, tell, processes) as runs:
        best = search(runs, settings, trials, splits)
        tests = [
            Run({**key, "part": "test", **_rates(found), "seed": seed}, replace(found.config, seed=seed))
            for (key, _), found in zip(settings, best, strict=True)
            for seed in range(seeds)
        ]
        results = runs.results(tests)
        outcomes = [results[i * seeds : (i + 1) * seeds] for i in range(len(settings))]
        table = [
            _row(key, found, outcome, trials) for (key, _), found, outcome in zip(settings, best, outcomes, strict=True)
        ]
        _pair(table, outcomes, str(reference))
        result = runs.write(table)
    figure = _plot(table, base)
    replace_file(path.with_suffix(".png"), lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
    text = markdown(table)
    replace_file(path.with_suffix(".md"), lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return result


def readable(table: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The table of a comparison for people: accuracies in percent, differences to the reference in points."""
    return [
        {
            "method (optimizer)": row["method"],
            "sparsity": f"{row['sparsity']:g}",
            "accuracy, %": f"{100 * row['test_accuracy']:.2f} ± {100 * row['test_accuracy_sd']:.2f}",
            "difference": "–" if row["difference"] is None else f"{100 * row['difference']:+.2f}",
            "p-value": "–" if row["p_value"] is None else f"{row['p_value']:.2g}",
            "training FLOPs": f"{row['training_flops']:.2e}",
            "of dense": f"{100 * row['training_flops'] / row['training_flops_dense']:.0f} %",
            "trials": str(row["trials"]),
        }
        for row in table
    ]


def markdown(table: Sequence[dict[str, Any]]) -> str:
    """The same as a Markdown table."""
    rows = readable(table)
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _sparsities(entry: Entry, sparsities: Sequence[float]) -> Sequence[float]:
    return [0.0] if entry.method == "dense" else sparsities


def _setting(base: TrainConfig, entry: Entry, sparsity: float) -> tuple[dict[str, Any], TrainConfig]:
    config = replace(base, method=entry.method, optimizer=entry.optimizer, sparsity=sparsity)
    return {"method": str(entry), "target": sparsity}, config


def _rates(found: Found) -> dict[str, float]:
    return {"lr": found.config.peak_lr, "other_lr": found.config.other_lr}


def _row(key: dict[str, Any], found: Found, outcome: Sequence[dict[str, Any]], trials: int) -> dict[str, Any]:
    mean, spread = mean_and_sd([run["accuracy"] for run in outcome])
    return {
        "method": key["method"],
        "sparsity": key["target"],
        "test_accuracy": mean,
        "test_accuracy_sd": spread,
        "seeds": len(outcome),
        "training_flops": mean_and_sd([run["training_flops"] for run in outcome])[0],
        "training_flops_dense": outcome[0]["training_flops_dense"],
        "validation_accuracy": found.accuracy,
        **_rates(found),
        "trials": trials,
    }


def _pair(table: Sequence[dict[str, Any]], outcomes: Sequence[Sequence[dict[str, Any]]], reference: str) -> None:
    """Add to each row its difference from the reference at the same sparsity, and the p-value of a paired t-test.

    Dense training is compared with the reference at the lowest sparsity.
    """
    accuracies = {
        (row["method"], row["sparsity"]): [run["accuracy"] for run in outcome]
        for row, outcome in zip(table, outcomes, strict=True)
    }
    lowest = min((sparsity for method, sparsity in accuracies if method == reference), default=0.0)
    for row in table:
        sparsity = row["sparsity"] if (reference, row["sparsity"]) in accuracies else lowest
        ours, theirs = accuracies[row["method"], row["sparsity"]], accuracies.get((reference, sparsity))
        row["difference"] = row["p_value"] = None
        if theirs is None or row["method"] == reference:
            continue
        row["difference"] = mean_and_sd(ours)[0] - mean_and_sd(theirs)[0]
        if len({round(a - b, 12) for a, b in zip(ours, theirs, strict=True)}) > 1:
            row["p_value"] = float(ttest_rel(ours, theirs).pvalue)


def _plot(table: Sequence[dict[str, Any]], base: TrainConfig) -> Any:
    rows = [row for row in table if row["sparsity"] > 0]
    dense = next((row for row in table if row["sparsity"] == 0), None)
    title = f"{Path(base.data).name}, {base.epochs} epochs, mean ± sd of {table[0]['seeds']} seeds"
    return accuracy_against_sparsity(rows or list(table), title, band=dense if rows else None)
