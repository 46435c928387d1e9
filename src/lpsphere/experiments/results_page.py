"""The page of the benchmark table: docs/results.md from the results files. Reads results; writes that page alone."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lpsphere.experiments.recipes import DATA, TABLE_METHODS, Recipe, load_recipe
from lpsphere.experiments.runs import mean_and_sd, paired_p_value
from lpsphere.experiments.table import Cell, command_for, read_results
from lpsphere.experiments.table_search import search_path
from lpsphere.text import markdown
from lpsphere.training import TrainConfig
from lpsphere.training.config import changes
from lpsphere.training.files import replace_text
from lpsphere.training.setup import given_settings, method_settings

__all__ = ["render_page", "write_page"]

Record = Mapping[str, Any]
Table = Mapping[tuple[str, float], Sequence[Record]]
"""The runs of a data set by method and target sparsity, each by its seed."""

_OURS, _DENSE, _NOTHING = "semi-pruning", "dense", "–"
_TITLES = {
    "dna": "DNA",
    "mushroom": "Mushroom",
    "climate": "Climate",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "cifar-10": "CIFAR-10",
    "tiny-imagenet": "Tiny ImageNet",
}
_NAMES = {_OURS: "ours", _DENSE: "dense SGD", "static": "static", "set": "SET", "rigl": "RigL", "snip": "SNIP"}
_NAMES["gmp"] = "GMP"
_COMMON = ("crop", "flip", "cutout", "average")
"""Settings that are the same for all methods unless the page says otherwise; tests hold the others to that."""
_NETWORK = ("hidden", "epochs", "batch_size", "average")
"""What a search may have been made with that the recipe no longer has."""
_ENOUGH = 3
"""Seeds from which on the means of two methods are compared."""
_ASSIGNMENT = re.compile(r"\w+=")
"""How a change begins that was given by hand; the usual ones have names."""
_SCORES = {
    "test_accuracy": "accuracy",
    "test_balanced_accuracy": "balanced accuracy",
    "test_auc": "area under the ROC curve",
}

_HEAD = """# Results

The data sets of [arXiv:2103.16013](https://arxiv.org/abs/2103.16013) at its sparsities and beyond. *Ours* is LpSGD with
semi-pruning; the others are dense SGD and the [methods](methods.md) of the same names on SGD, on the same network with
the same epochs, batches and schedule, and the same augmentation and averaging of weights unless a section says
otherwise. Networks are no larger and trained for no more epochs than the paper's. The same epochs are not the same
work: GMP and ours, whose sparsity climbs, take several times the training FLOPs of RigL, SET and static
([Methods](methods.md#compared) has figures). What is peculiar about the data is in the [README](../README.md#data).

Accuracies are in percent, on the test rows, of the network at the end of training, never of the best epoch: mean ±
standard deviation, in brackets the number of seeds; a dash: not run. The paper's are single numbers. A mean of ours
that is higher is **bold**. *Exact*: after every run there were round(N (1 − sparsity)) connections of the N weights
that are counted (all Linear and Conv weights but the output layer's). Each run's settings, versions and command are in
its file in `results/table`. *Changes* of a recipe, or of what it was before, are tried on parts of the training rows
that are not trained on, never on test rows: accuracy, and its difference from the recipe's on the same splits, mean ±
standard deviation, with p of a paired t-test that allows for the overlap of training rows.

`lpsphere reproduce table` trains what is missing of the cells and methods that it is given, and goes on where it was
stopped; `lpsphere reproduce page` writes this page.
"""


def write_page(path: Path, results: Path, searches: Path, ablations: Path, seeds: int) -> Path:
    """Write the page; without new results it stays the same to the byte.

    Args:
        path: The page.
        results: Folder of the results of the table.
        searches: Folder of the searches for its settings.
        ablations: Folder of the ablations of its recipes.
        seeds: Seeds that each cell is to have: commands are given for those that have fewer.

    Returns:
        The path of the page.

    Raises:
        ValueError: If a file is no result, or runs of one cell have different settings.
    """
    text = render_page(read_results(results), searches, ablations, seeds)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text)
    return path


def render_page(records: Sequence[Record], searches: Path, ablations: Path, seeds: int) -> str:
    """The page as Markdown; see `write_page`."""
    overview, sections = [], []
    for data in DATA:
        own: dict[tuple[str, float], list[Record]] = {}
        for record in records:
            if record["data"] == data:
                own.setdefault((record["method"], record["target"]), []).append(record)
        for runs in own.values():
            _check_alike(runs)
        recipe = load_recipe(data)
        overview += [_at_a_glance(recipe, sparsity, own) for method, sparsity in sorted(own) if method == _OURS]
        sections.append(_section(recipe, own, searches, seeds))
        sections += [_ablation(recipe, path) for path in sorted(ablations.glob(f"{data}-*.json"))]
    return "\n".join([_HEAD, *(["## At a glance\n", markdown(overview)] if overview else []), *sections])


def _at_a_glance(recipe: Recipe, sparsity: float, table: Table) -> dict[str, str]:
    ours = table[_OURS, sparsity]
    others = [method for method, target in table if target == sparsity and method not in (_OURS, _DENSE)]
    row = {
        "data": _TITLES[recipe.data],
        "sparsity": f"{sparsity:g}",
        "ours": _score(ours),
        "paper": _published(recipe, sparsity),
        "dense SGD": _score(table.get((_DENSE, 0.0), ())),
        "best of the others": _NOTHING,
        "ours less that": _NOTHING,
    }
    if others:
        best = max(others, key=lambda method: _mean(table[method, sparsity]))
        row["best of the others"] = f"{_NAMES[best]} {_score(table[best, sparsity])}"
    if others and min(len(ours), len(table[best, sparsity])) >= _ENOUGH:
        row["ours less that"] = f"{100 * (_mean(ours) - _mean(table[best, sparsity])):+.2f}"
    return row


def _section(recipe: Recipe, table: Table, searches: Path, seeds: int) -> str:
    sparsities = sorted({*recipe.sparsities, *(target for method, target in table if method != _DENSE)})
    config = recipe.config(_OURS, recipe.sparsities[0])
    sizes = sorted({run["parameters"] for runs in table.values() for run in runs})
    network = " and ".join(f"{size:,}" for size in sizes) or "not trained yet"
    recipe_file = f"[Recipe](../src/lpsphere/experiments/recipes/{recipe.data}.yaml)"
    split = " The rows are split anew for each seed, alike for all methods." if recipe.split_by_seed else ""
    parts = [
        f"## {_TITLES[recipe.data]}\n",
        f"Parameters: {network} (paper: {recipe.paper.weights:,}); epochs: {config.epochs} (paper: "
        f"{recipe.paper.epochs}). {recipe_file}.{split} {_searched(recipe, sparsities, searches)}\n",
        f"{' '.join(filter(None, [_kept(recipe), _unlike(recipe)]))}\n",
        markdown([_against_paper(recipe, sparsity, table.get((_OURS, sparsity), ())) for sparsity in sparsities]),
    ]
    if any(method != _OURS for method, _ in table):
        parts.append(markdown([_against_methods(sparsity, table) for sparsity in sparsities]))
        parts += [f"{told}\n" for told in [_told_apart(sparsities, table)] if told]
    parts += [f"{told}\n" for told in [_precisions(table)] if told]
    more = [name for name in _SCORES if any(name in run for runs in table.values() for run in runs)]
    if "test_auc" in more:
        parts.append(markdown(_more_scores(sparsities, table, more)))
    if recipe.split_by_seed and (_DENSE, 0.0) in table:
        paired = [_paired_row(recipe, sparsity, table, more) for sparsity in sparsities if (_OURS, sparsity) in table]
        if paired:
            parts += [
                "Ours less dense on the same splits, in points: mean ± standard deviation of the differences, and p of "
                "a paired t-test that allows for the overlap of the splits (Nadeau and Bengio, 2003).\n",
                markdown(paired),
            ]
    missing = _commands(recipe, sparsities, table, seeds)
    if missing:
        parts.append(
            f"Not run, or with fewer than {seeds} seeds:\n\n```\n" + "".join(f"{c}\n" for c in missing) + "```\n"
        )
    return "\n".join(parts)


def _against_paper(recipe: Recipe, sparsity: float, runs: Sequence[Record]) -> dict[str, str]:
    published = recipe.paper.accuracy.get(sparsity)
    difference, better = _NOTHING, False
    if runs and published is not None:
        points = 100 * (_mean(runs) - published)
        difference, better = f"{points:+.2f}", points > 0
    score = _score(runs)
    return {
        "sparsity": f"{sparsity:g}",
        "ours": f"**{score}**" if better else score,
        "paper": _published(recipe, sparsity),
        "difference": difference,
        "connections": _joined(runs, lambda run: f"{run['connections']:,} of {run['selected_weights']:,}"),
        "sparsity reached": _joined(runs, _exactness),
        "time of a run": _times(runs),
    }


def _against_methods(sparsity: float, table: Table) -> dict[str, str]:
    row = {"sparsity": f"{sparsity:g}"}
    for method in TABLE_METHODS:
        row[_NAMES[method]] = _score(table.get((method, 0.0 if method == _DENSE else sparsity), ()))
    return row


def _told_apart(sparsities: Sequence[float], table: Table) -> str:
    """Where another method is better or worse than ours beyond the spread of seeds; "" with too few of them to say."""
    better: list[str] = []
    worse: list[str] = []
    compared = False
    for sparsity in sparsities:
        ours = table.get((_OURS, sparsity), ())
        for method in TABLE_METHODS[1:]:
            other = table.get((method, 0.0 if method == _DENSE else sparsity), ())
            if min(len(ours), len(other)) < _ENOUGH:
                continue
            compared = True
            (mean, spread), (its_mean, its_spread) = _mean_and_sd(ours), _mean_and_sd(other)
            if abs(its_mean - mean) > max(spread, its_spread):
                (better if its_mean > mean else worse).append(f"{_NAMES[method]} at {sparsity:g}")
    if not compared:
        return ""
    return (
        "By more than one standard deviation, the larger of the two, better than ours: "
        f"{', '.join(better) or 'none'}; worse: {', '.join(worse) or 'none'}."
    )


def _more_scores(sparsities: Sequence[float], table: Table, names: Sequence[str]) -> list[dict[str, str]]:
    """All scores of dense networks and of ours, as far as they were run."""
    keys = [key for key in [(_DENSE, 0.0), *((_OURS, sparsity) for sparsity in sparsities)] if key in table]
    return [
        {
            "network": "dense SGD" if method == _DENSE else f"ours, sparsity {sparsity:g}",
            **{_SCORES[name]: _score(table.get((method, sparsity), ()), name) for name in names},
        }
        for method, sparsity in keys
    ]


def _paired_row(recipe: Recipe, sparsity: float, table: Table, names: Sequence[str]) -> dict[str, str]:
    ours, dense = ({run["seed"]: run for run in table[key]} for key in ((_OURS, sparsity), (_DENSE, 0.0)))
    common = sorted(set(ours) & set(dense))
    overlap = recipe.split_by_seed / (1 - recipe.split_by_seed)
    return {
        "sparsity": f"{sparsity:g}",
        "splits": str(len(common)),
        **{_SCORES[name]: _difference([(ours[s][name], dense[s][name]) for s in common], overlap) for name in names},
    }


def _difference(pairs: Sequence[tuple[float, float]], overlap: float) -> str:
    if not pairs:
        return _NOTHING
    mean, spread = mean_and_sd([a - b for a, b in pairs])
    p_value = paired_p_value([a for a, _ in pairs], [b for _, b in pairs], overlap)
    return f"{100 * mean:+.2f} ± {100 * spread:.2f}{_chance(p_value)}"


def _chance(p_value: float | None) -> str:
    return "" if p_value is None else f" (p = {p_value:.2g})"


def _place(method: str, sparsity: float) -> str:
    return _NAMES[method] + ("" if method == _DENSE else f" at {sparsity:g}")


def _published(recipe: Recipe, sparsity: float) -> str:
    published = recipe.paper.accuracy.get(sparsity)
    return _NOTHING if published is None else f"{100 * published:.2f}"


def _mean_and_sd(runs: Sequence[Record]) -> tuple[float, float]:
    return mean_and_sd([run["test_accuracy"] for run in runs])


def _mean(runs: Sequence[Record]) -> float:
    return _mean_and_sd(runs)[0]


def _score(runs: Sequence[Record], name: str = "test_accuracy") -> str:
    values = [run[name] for run in runs if name in run]
    if not values:
        return _NOTHING
    mean, spread = mean_and_sd(values)
    return f"{100 * mean:.2f}" + (f" ± {100 * spread:.2f}" if len(values) > 1 else "") + f" ({len(values)})"


def _exactness(run: Record) -> str:
    exact = run["connections"] == round(run["selected_weights"] * (1 - run["target"]))
    return "exact" if exact else f"{run['sparsity']:.4f}"


def _device(run: Record) -> str:
    place = f"cpu, {run['threads']} threads" if run["device"] == "cpu" else run["device"]
    return place.replace("1 threads", "1 thread") + ("" if run["precision"] == "no" else f", {run['precision']}")


def _joined(runs: Sequence[Record], tell: Callable[[Record], str]) -> str:
    return "; ".join(sorted({tell(run) for run in runs})) or _NOTHING


def _times(runs: Sequence[Record]) -> str:
    """The mean time of the runs on each kind of device."""
    by_device: dict[str, list[float]] = {}
    for run in runs:
        by_device.setdefault(_device(run), []).append(run["seconds"])
    return "; ".join(f"{_time(mean_and_sd(v)[0])} on {device}" for device, v in sorted(by_device.items())) or _NOTHING


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _kept(recipe: Recipe) -> str:
    """How methods share the connections out among layers, and among neurons."""
    where: dict[str, list[str]] = {}
    for sparsity in recipe.sparsities:
        where.setdefault(_kept_at(recipe, sparsity), []).append(f"{sparsity:g}")
    return " ".join(
        f"Densities of the layers at {', '.join(sparsities)}: {told}." for told, sparsities in where.items()
    )


def _kept_at(recipe: Recipe, sparsity: float) -> str:
    densities: dict[str, list[str]] = {}
    alive = []
    for method in recipe.methods:
        if method == _DENSE:
            continue
        values = method_settings(method) | given_settings(recipe.config(method, sparsity))
        whole = method == _OURS or values.get("ranking") == "network"
        densities.setdefault("found over the network" if whole else values["distribution"], []).append(_NAMES[method])
        alive += [_NAMES[method]] if values["min_fan_in"] else []
    told = "; ".join(f"{what} for {', '.join(methods)}" for what, methods in densities.items())
    return f"{told}; every neuron keeps a connection with {', '.join(alive) or 'none'}"


def _unlike(recipe: Recipe) -> str:
    """In which settings of training, beside those that are each method's own, methods differ."""
    where: dict[str, list[str]] = {}
    for name in _COMMON:
        for sparsity in recipe.sparsities:
            methods: dict[Any, list[str]] = {}
            for method in recipe.methods:
                value = getattr(recipe.config(method, 0.0 if method == _DENSE else sparsity), name)
                methods.setdefault(value, []).append(_NAMES[method])
            if len(methods) > 1:
                usual = max(methods, key=lambda value: len(methods[value]))
                others = ", ".join(f"{value} for {', '.join(methods[value])}" for value in methods if value != usual)
                where.setdefault(f"{name} is {usual}, but {others}", []).append(f"{sparsity:g}")
    return " ".join(f"At {', '.join(sparsities)} {what}." for what, sparsities in where.items())


def _precisions(table: Table) -> str:
    """Which runs were trained in mixed precision, where others were not."""
    told, all_mixed = [], True
    for (method, target), runs in table.items():
        mixed = sum(run["precision"] != "no" for run in runs)
        all_mixed = all_mixed and mixed == len(runs)
        if mixed:
            told.append(_place(method, target) + ("" if mixed == len(runs) else f" ({mixed} of {len(runs)} runs)"))
    if not told or all_mixed:
        return ""
    return f"In mixed precision: {', '.join(told)}; the other runs in float32."


def _searched(recipe: Recipe, sparsities: Sequence[float], searches: Path) -> str:
    """With how many trials settings were searched, as far as that came to its end."""
    found: dict[str, list[str]] = {}
    for method in TABLE_METHODS:
        for sparsity in [0.0] if method == _DENSE else sparsities:
            path = search_path(searches, Cell(recipe.data, sparsity), method)
            if not path.exists():
                continue
            record, config = json.loads(path.read_text(encoding="utf-8")), recipe.config(method, sparsity)
            changed = [name for name in _NETWORK if record["settings"][name] != config.to_dict()[name]]
            with_other = "".join(f", with {name}={record['settings'][name]}" for name in changed)
            for row in record["table"]:
                final = f", the best {row['finalists']} on {row['final_splits']}" if "finalists" in row else ""
                effort = f"{row['trials']} trials, {row['splits']} splits{final}{with_other}"
                found.setdefault(effort, []).append(_place(method, sparsity))
    if not found:
        return "Settings were not searched for all methods alike: the recipe says where they are from."
    told = "; ".join(f"{', '.join(places)} ({effort})" for effort, places in found.items())
    return f"Settings were searched on {_validation(recipe)}, from those on that the recipe had: {told}."


def _validation(recipe: Recipe) -> str:
    of_splits = " of the splits (a row that one of them tests is a training row of others)"
    return "parts of the training rows" + (of_splits if recipe.split_by_seed else "")


def _ablation(recipe: Recipe, path: Path) -> str:
    """What was tried about a recipe, helpful or not."""
    record = json.loads(path.read_text(encoding="utf-8"))
    if not record["table"]:
        return ""
    method, epochs = record["settings"]["method"], record["settings"]["epochs"]
    sparsity = 0.0 if method == _DENSE else record["settings"]["sparsity"]
    now = recipe.config(method, sparsity)
    shorter = f", {epochs} epochs" if epochs != now.epochs else ""
    then = changes(TrainConfig.from_dict(record["settings"]), replace(now, epochs=epochs))
    what = "an earlier recipe" if then else "the recipe"
    origin = f"It had {then}." if then else f"`{_ablation_command(recipe, method, sparsity, record)}`"
    return (
        f"Changes of {what}, {_place(method, sparsity)}{shorter}, on {_validation(recipe)}. {origin}\n\n"
        f"{markdown([_change(row) for row in record['table']])}"
    )


def _change(row: Record) -> dict[str, str]:
    spread = f" ± {100 * row['sd']:.2f}" if row["splits"] > 1 else ""
    diverged = row.get("diverged", 0)
    return {
        "change": row["change"],
        "accuracy": f"{diverged} diverged" if diverged else f"{100 * row['validation_accuracy']:.2f}",
        "difference": _NOTHING if diverged else f"{100 * row['difference']:+.2f}{spread}{_chance(row['p_value'])}",
        "splits": str(row["splits"]),
    }


def _ablation_command(recipe: Recipe, method: str, sparsity: float, record: Record) -> str:
    """The command that trains what a table of changes shows."""
    words = ["lpsphere", "reproduce", "ablation", "--cells", str(Cell(recipe.data, sparsity))]
    words += [] if method == _OURS else ["--methods", method]
    if record["settings"]["epochs"] != recipe.config(method, sparsity).epochs:
        words += ["--epochs", str(record["settings"]["epochs"])]
    words += ["--splits", str(max(row["splits"] for row in record["table"]))]
    for row in record["table"]:
        words += ["--change", row["change"]] if _ASSIGNMENT.match(row["change"]) else []
    return shlex.join(words)


def _commands(recipe: Recipe, sparsities: Sequence[float], table: Table, seeds: int) -> list[str]:
    """Commands for the cells of the recipe that have too few runs, as few as will do."""
    missing: dict[tuple[float, ...], list[str]] = {}
    for method in TABLE_METHODS:
        targets = [0.0] if method == _DENSE else [s for s in sparsities if s in recipe.sparsities]
        short = tuple(target for target in targets if len(table.get((method, target), ())) < seeds)
        if short:
            everywhere = short == (0.0,) or short == recipe.sparsities
            missing.setdefault(recipe.sparsities if everywhere else short, []).append(method)
    return [command_for([Cell(recipe.data, s) for s in cells], methods, seeds) for cells, methods in missing.items()]


def _check_alike(runs: Sequence[Record]) -> None:
    """Refuse to average runs of different settings."""
    first, *others = [
        {name: value for name, value in run["settings"].items() if name not in ("seed", "split_seed")} for run in runs
    ]
    for run, settings in zip(runs[1:], others, strict=True):
        if settings != first:
            differing = sorted(name for name in first.keys() | settings.keys() if first.get(name) != settings.get(name))
            where = f"{run['data']}, {run['method']}, sparsity {run['target']:g}"
            raise ValueError(
                f"the runs of {where} with seeds {runs[0]['seed']} and {run['seed']} differ in {', '.join(differing)}: "
                "remove those of the older recipe from the folder of results"
            )
