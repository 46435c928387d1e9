"""Methods compared on equal terms: one network, one data set, one budget and schedule.

For every method and sparsity the learning rates are searched with the same number of trials, each scored on the same
stratified splits of the training rows; the best then train on all training rows and are tested, once a seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lpsphere.experiments.plots import accuracy_against_sparsity, save_figure
from lpsphere.experiments.runs import Run, Runs, mean_and_sd, paired_p_value
from lpsphere.experiments.search import Found, rates, search
from lpsphere.text import markdown
from lpsphere.topology import METHODS
from lpsphere.training import TrainConfig, value_of
from lpsphere.training.files import replace_text
from lpsphere.training.setup import check_method_settings, given_settings, method_settings

__all__ = ["Entry", "compare", "parse_methods", "readable"]


@dataclass(frozen=True)
class Entry:
    """One line of a comparison.

    Attributes:
        method: The method.
        optimizer: The optimizer that trains with it.
        settings: Settings of its own, as (name, value).
    """

    method: str
    optimizer: str
    settings: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        """How tables name it."""
        return f"{self.method} ({', '.join([self.optimizer, *(f'{name}={value}' for name, value in self.settings)])})"


def parse_methods(text: str) -> list[Entry]:
    """From "dense,rigl,semi-pruning"; "rigl:adamw:every=40" names the optimizer and settings.

    The optimizer is LpSGD for semi-pruning and SGD for the others unless it is named.

    Raises:
        TypeError, ValueError: If a method, optimizer or setting is unknown, or a line is given twice.
    """
    entries = []
    for part in text.split(","):
        method, *rest = re.split(r":(?!\d+(?::|$))", part.strip())  # 2:4 stays together
        if method not in (*METHODS, "dense"):
            raise ValueError(f"unknown method {method!r}: choose from {', '.join(('dense', *METHODS))}")
        settings = {name: value_of(value) for name, equals, value in (r.partition("=") for r in rest) if equals}
        optimizer, *more = [r for r in rest if "=" not in r] or ["lpsgd" if method == "semi-pruning" else "sgd"]
        if more:
            raise ValueError(f"{part.strip()!r} names several optimizers: give one, and settings as name=value")
        check_method_settings(method, settings)
        TrainConfig.from_dict({"optimizer": optimizer} | settings)  # refuses unknown optimizers and wrong values
        entries.append(Entry(method, optimizer, tuple(settings.items())))
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
        base: What all runs share; a setting of a method goes to those that take it.
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

    Raises:
        ValueError: If the base is not a classification, sets what the comparison varies, or no method takes a setting.
    """
    _check(base, entries, trials)
    settings = [_setting(base, entry, sparsity) for entry in entries for sparsity in _sparsities(entry, sparsities)]
    with Runs(path, __doc__, base, command, tell, processes) as runs:
        best = search(runs, settings, trials, splits)
        tests = [
            Run({**key, "part": "test", **rates(found.config), "seed": seed}, replace(found.config, seed=seed))
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
    save_figure(path.with_suffix(".png"), figure)
    text = markdown(readable(table))
    replace_text(path.with_suffix(".md"), text)
    return result


def readable(table: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The table of a comparison for people: accuracies in percent, differences to the reference in points."""
    rows = []
    for row in table:
        lost = f", {row['diverged']} diverged" if row["diverged"] else ""
        cost, dense = row["training_flops"], row["training_flops_dense"]
        rows.append(
            {
                "method (optimizer)": row["method"],
                "sparsity": "–" if row["sparsity"] is None else f"{row['sparsity']:.4g}",
                "accuracy, %": f"{100 * row['test_accuracy']:.2f} ± {100 * row['test_accuracy_sd']:.2f}{lost}",
                "difference": "–" if row["difference"] is None else f"{100 * row['difference']:+.2f}",
                "p-value": "–" if row["p_value"] is None else f"{row['p_value']:.2g}",
                "dead": "–" if row["dead_neurons"] is None else f"{row['dead_neurons']:.0f}",
                "training FLOPs": "–" if cost is None else f"{cost:.2e}",
                "of dense": "–" if cost is None else f"{100 * cost / dense:.0f} %",
                "trials": str(row["trials"]),
            }
        )
    return rows


def _check(base: TrainConfig, entries: Sequence[Entry], trials: int) -> None:
    plain = TrainConfig()
    if base.task != "classification":
        raise ValueError(f"compare scores by accuracy: task must be classification, got {base.task}")
    varied = [
        name for name in ("method", "optimizer", "sparsity", "seed") if getattr(base, name) != getattr(plain, name)
    ]
    if varied:
        raise ValueError(f"the comparison sets {', '.join(varied)} itself: use --methods, --sparsities and --seeds")
    if trials > 1 and (base.lr is not None or base.other_lr != plain.other_lr):
        raise ValueError("learning rates are searched: leave lr and other_lr out, or pass --trials 1")
    taken = {name for entry in entries for name in method_settings(entry.method)}
    idle = [name for name in given_settings(base) if name not in taken]
    if idle:
        raise ValueError(f"none of the methods takes {', '.join(idle)}")


def _sparsities(entry: Entry, sparsities: Sequence[float]) -> Sequence[float]:
    return [0.0] if entry.method == "dense" else sparsities


def _setting(base: TrainConfig, entry: Entry, sparsity: float) -> tuple[dict[str, Any], TrainConfig]:
    taken = method_settings(entry.method)
    foreign = {name: None for name in given_settings(base) if name not in taken}
    own = {"method": entry.method, "optimizer": entry.optimizer, "sparsity": sparsity, **dict(entry.settings)}
    config = TrainConfig.from_dict(base.to_dict() | foreign | own)
    return {"method": str(entry), "target": sparsity}, config


def _row(key: dict[str, Any], found: Found, outcome: Sequence[dict[str, Any]], trials: int) -> dict[str, Any]:
    mean, spread = mean_and_sd([run["accuracy"] for run in outcome])
    ended = [run for run in outcome if not run.get("diverged")]

    def average(name: str) -> float | None:
        return mean_and_sd([run[name] for run in ended])[0] if ended else None

    return {
        **key,
        "sparsity": average("sparsity"),
        "test_accuracy": mean,
        "test_accuracy_sd": spread,
        "seeds": len(outcome),
        "diverged": len(outcome) - len(ended),
        "dead_neurons": average("dead"),
        "training_flops": average("training_flops"),
        "training_flops_dense": average("training_flops_dense"),
        "validation_accuracy": found.accuracy,
        **rates(found.config),
        "trials": trials,
    }


def _pair(table: Sequence[dict[str, Any]], outcomes: Sequence[Sequence[dict[str, Any]]], reference: str) -> None:
    """Add to each row its difference from the reference at the same sparsity, and the p-value of a paired t-test.

    Dense training is compared with the reference at the lowest sparsity.
    """
    accuracies = {
        (row["method"], row["target"]): [run["accuracy"] for run in outcome]
        for row, outcome in zip(table, outcomes, strict=True)
    }
    lowest = min((target for method, target in accuracies if method == reference), default=0.0)
    for row in table:
        target = row["target"] if (reference, row["target"]) in accuracies else lowest
        ours, theirs = accuracies[row["method"], row["target"]], accuracies.get((reference, target))
        row["difference"] = row["p_value"] = None
        if theirs is None or row["method"] == reference:
            continue
        row["difference"] = mean_and_sd(ours)[0] - mean_and_sd(theirs)[0]
        row["p_value"] = paired_p_value(ours, theirs)


def _plot(table: Sequence[dict[str, Any]], base: TrainConfig) -> Any:
    rows = [row for row in table if row["target"] > 0]
    dense = next((row for row in table if row["target"] == 0), None)
    title = f"{Path(base.data).name}, {base.epochs} epochs, mean ± sd of {table[0]['seeds']} seeds"
    return accuracy_against_sparsity(rows or list(table), title, band=dense if rows else None)
