"""The page of the benchmark table: docs/results.md from the results files, with pictures beside these.

Reads results; writes that page and its pictures alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lpsphere.experiments.plots import accuracy_against_sparsity, save_figure
from lpsphere.experiments.recipe_words import (
    DENSE,
    NAMES,
    NOTHING,
    OURS,
    TITLES,
    Record,
    chance,
    densities,
    differences,
    place,
    validation,
)
from lpsphere.experiments.recipes import DATA, TABLE_METHODS, Recipe, load_recipe
from lpsphere.experiments.runs import mean_and_sd, paired_p_value
from lpsphere.experiments.table import Cell, command_for, read_results
from lpsphere.experiments.table_search import search_path
from lpsphere.text import markdown
from lpsphere.training.files import replace_text

__all__ = ["render_page", "write_page"]

Table = Mapping[tuple[str, float], Sequence[Record]]
"""The runs of a data set by method and target sparsity, each by its seed."""

_NETWORK = ("hidden", "epochs", "batch_size", "average")
"""What a search may have been made with that the recipe no longer has."""
_ENOUGH = 3
"""Seeds from which on the means of two methods are compared."""
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
work: GMP and ours, whose sparsity climbs, take more training FLOPs than RigL, SET and static, the more so the sparser;
on digits two to three times as many at 0.9 and three to seven times at 0.98 ([Methods](methods.md#compared)). What is
peculiar about the data is in the [README](../README.md#data).

Accuracies are in percent, on the test rows, of the network at the end of training, never of the best epoch: mean ±
standard deviation, in brackets the number of seeds; a dash: not run, or fewer than three seeds to compare. The paper's
are single numbers; where the two are compared, a mean of ours that is higher is **bold**. *Exact*: after every run
there were round(N (1 − sparsity)) connections of the N weights that are counted (all Linear and Conv weights but the
output layer's). Each run's settings, versions and command are in its file in `results/table`. What was tried to find
the recipes: [What was tried](ablations.md).

`lpsphere reproduce table` trains what is missing of the cells and methods that it is given, and goes on where it was
stopped; `lpsphere reproduce page` writes this page.
"""


def write_page(path: Path, results: Path, searches: Path, seeds: int) -> Path:
    """Write the page, and a picture of each data set beside its results; the text of the same results is the same.

    Args:
        path: The page.
        results: Folder of the results of the table.
        searches: Folder of the searches for its settings.
        seeds: Seeds that each cell is to have: commands are given for those that have fewer.

    Returns:
        The path of the page.

    Raises:
        ValueError: If a file is no result, or runs of one cell have different settings.
    """
    records = read_results(results)
    text = render_page(records, searches, seeds)
    for data, table in _tables(records).items():
        if _pictured(table):
            save_figure(results / f"{data}.png", _picture(load_recipe(data), table))
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text)
    return path


def render_page(records: Sequence[Record], searches: Path, seeds: int) -> str:
    """The page as Markdown; see `write_page`."""
    overview, sections = [], []
    for data, table in _tables(records).items():
        recipe = load_recipe(data)
        overview += [_at_a_glance(recipe, sparsity, table) for method, sparsity in sorted(table) if method == OURS]
        sections.append(_section(recipe, table, searches, seeds))
    return "\n".join([_HEAD, *(["## At a glance\n", markdown(overview)] if overview else []), *sections])


def _tables(records: Sequence[Record]) -> dict[str, Table]:
    """The runs of every data set, with or without results."""
    tables: dict[str, dict[tuple[str, float], list[Record]]] = {data: {} for data in DATA}
    for record in records:
        tables[record["data"]].setdefault((record["method"], record["target"]), []).append(record)
    for runs in (runs for table in tables.values() for runs in table.values()):
        _check_alike(runs)
    return dict(tables)


def _pictured(table: Table) -> bool:
    """Whether there is something to look at: several sparsities of ours with enough seeds."""
    return sum(method == OURS and len(runs) >= _ENOUGH for (method, _), runs in table.items()) > 1


def _picture(recipe: Recipe, table: Table) -> Figure:
    """Accuracy against sparsity of all methods and of the paper, with dense training as a band."""
    rows = [
        {"method": NAMES[method], "target": sparsity, "test_accuracy": mean, "test_accuracy_sd": spread}
        for method in TABLE_METHODS
        for sparsity in sorted(target for name, target in table if name == method)
        for mean, spread in [_mean_and_sd(table[method, sparsity])]
    ]
    band = next((row for row in rows if row["method"] == NAMES[DENSE]), None)
    rows = [row for row in rows if row is not band]
    rows += [
        {"method": "paper", "target": sparsity, "test_accuracy": accuracy, "test_accuracy_sd": 0.0}
        for sparsity, accuracy in sorted(recipe.paper.accuracy.items())
    ]
    return accuracy_against_sparsity(rows, TITLES[recipe.data], band=band, baseline="paper")


def _at_a_glance(recipe: Recipe, sparsity: float, table: Table) -> dict[str, str]:
    ours = table[OURS, sparsity]
    others = [method for method, target in table if target == sparsity and method not in (OURS, DENSE)]
    row = {
        "data": TITLES[recipe.data],
        "sparsity": f"{sparsity:g}",
        "ours": _score(ours),
        "paper": _published(recipe, sparsity),
        "dense SGD": _score(table.get((DENSE, 0.0), ())),
        "best of the others": NOTHING,
        "ours less that": NOTHING,
    }
    if others:
        best = max(others, key=lambda method: _mean(table[method, sparsity]))
        row["best of the others"] = f"{NAMES[best]} {_score(table[best, sparsity])}"
    if others and min(len(ours), len(table[best, sparsity])) >= _ENOUGH:
        row["ours less that"] = f"{100 * (_mean(ours) - _mean(table[best, sparsity])):+.2f}"
    return row


def _section(recipe: Recipe, table: Table, searches: Path, seeds: int) -> str:
    sparsities = sorted({*recipe.sparsities, *(target for method, target in table if method != DENSE)})
    config = recipe.config(OURS, recipe.sparsities[0])
    sizes = sorted({run["parameters"] for runs in table.values() for run in runs})
    network = " and ".join(f"{size:,}" for size in sizes) or "not trained yet"
    recipe_file = f"[Recipe](../src/lpsphere/experiments/recipes/{recipe.data}.yaml)"
    split = " The rows are split anew for each seed, alike for all methods." if recipe.split_by_seed else ""
    parts = [
        f"## {TITLES[recipe.data]}\n",
        f"Parameters: {network} (paper: {recipe.paper.weights:,}); epochs: {config.epochs} (paper: "
        f"{recipe.paper.epochs}). {recipe_file}.{split} {_searched(recipe, sparsities, searches)}\n",
        f"{' '.join(filter(None, [densities(recipe), differences(recipe)]))}\n",
        markdown([_against_paper(recipe, sparsity, table.get((OURS, sparsity), ())) for sparsity in sparsities]),
    ]
    if any(method != OURS for method, _ in table):
        parts.append(markdown([_against_methods(sparsity, table) for sparsity in sparsities]))
        parts += [f"{told}\n" for told in [_told_apart(sparsities, table)] if told]
    if _pictured(table):
        parts.append(f"![Accuracy against sparsity on {TITLES[recipe.data]}](../results/table/{recipe.data}.png)\n")
    parts += [f"{told}\n" for told in [_precisions(table)] if told]
    more = [name for name in _SCORES if any(name in run for runs in table.values() for run in runs)]
    if "test_auc" in more:
        parts.append(markdown(_more_scores(sparsities, table, more)))
    if recipe.split_by_seed and (DENSE, 0.0) in table:
        paired = [_paired_row(recipe, sparsity, table, more) for sparsity in sparsities if (OURS, sparsity) in table]
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
    difference, better = NOTHING, False
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
        row[NAMES[method]] = _score(table.get((method, 0.0 if method == DENSE else sparsity), ()))
    return row


def _told_apart(sparsities: Sequence[float], table: Table) -> str:
    """Where another method is better or worse than ours beyond the spread of seeds; "" with too few of them to say."""
    better: list[str] = []
    worse: list[str] = []
    compared = False
    for sparsity in sparsities:
        ours = table.get((OURS, sparsity), ())
        for method in TABLE_METHODS[1:]:
            other = table.get((method, 0.0 if method == DENSE else sparsity), ())
            if min(len(ours), len(other)) < _ENOUGH:
                continue
            compared = True
            (mean, spread), (its_mean, its_spread) = _mean_and_sd(ours), _mean_and_sd(other)
            if abs(its_mean - mean) > max(spread, its_spread):
                (better if its_mean > mean else worse).append(f"{NAMES[method]} at {sparsity:g}")
    if not compared:
        return ""
    return (
        "By more than one standard deviation, the larger of the two, better than ours: "
        f"{', '.join(better) or 'none'}; worse: {', '.join(worse) or 'none'}."
    )


def _more_scores(sparsities: Sequence[float], table: Table, names: Sequence[str]) -> list[dict[str, str]]:
    """All scores of dense networks and of ours, as far as they were run."""
    keys = [key for key in [(DENSE, 0.0), *((OURS, sparsity) for sparsity in sparsities)] if key in table]
    return [
        {
            "network": "dense SGD" if method == DENSE else f"ours, sparsity {sparsity:g}",
            **{_SCORES[name]: _score(table.get((method, sparsity), ()), name) for name in names},
        }
        for method, sparsity in keys
    ]


def _paired_row(recipe: Recipe, sparsity: float, table: Table, names: Sequence[str]) -> dict[str, str]:
    ours, dense = ({run["seed"]: run for run in table[key]} for key in ((OURS, sparsity), (DENSE, 0.0)))
    common = sorted(set(ours) & set(dense))
    overlap = recipe.split_by_seed / (1 - recipe.split_by_seed)
    return {
        "sparsity": f"{sparsity:g}",
        "splits": str(len(common)),
        **{_SCORES[name]: _difference([(ours[s][name], dense[s][name]) for s in common], overlap) for name in names},
    }


def _difference(pairs: Sequence[tuple[float, float]], overlap: float) -> str:
    if not pairs:
        return NOTHING
    mean, spread = mean_and_sd([a - b for a, b in pairs])
    p_value = paired_p_value([a for a, _ in pairs], [b for _, b in pairs], overlap)
    return f"{100 * mean:+.2f} ± {100 * spread:.2f}{chance(p_value)}"


def _published(recipe: Recipe, sparsity: float) -> str:
    published = recipe.paper.accuracy.get(sparsity)
    return NOTHING if published is None else f"{100 * published:.2f}"


def _mean_and_sd(runs: Sequence[Record]) -> tuple[float, float]:
    return mean_and_sd([run["test_accuracy"] for run in runs])


def _mean(runs: Sequence[Record]) -> float:
    return _mean_and_sd(runs)[0]


def _score(runs: Sequence[Record], name: str = "test_accuracy") -> str:
    values = [run[name] for run in runs if name in run]
    if not values:
        return NOTHING
    mean, spread = mean_and_sd(values)
    return f"{100 * mean:.2f}" + (f" ± {100 * spread:.2f}" if len(values) > 1 else "") + f" ({len(values)})"


def _exactness(run: Record) -> str:
    exact = run["connections"] == round(run["selected_weights"] * (1 - run["target"]))
    return "exact" if exact else f"{run['sparsity']:.4f}"


def _device(run: Record) -> str:
    place = f"cpu, {run['threads']} threads" if run["device"] == "cpu" else run["device"]
    return place.replace("1 threads", "1 thread") + ("" if run["precision"] == "no" else f", {run['precision']}")


def _joined(runs: Sequence[Record], tell: Callable[[Record], str]) -> str:
    return "; ".join(sorted({tell(run) for run in runs})) or NOTHING


def _times(runs: Sequence[Record]) -> str:
    """The mean time of the runs on each kind of device."""
    by_device: dict[str, list[float]] = {}
    for run in runs:
        by_device.setdefault(_device(run), []).append(run["seconds"])
    return "; ".join(f"{_time(mean_and_sd(v)[0])} on {device}" for device, v in sorted(by_device.items())) or NOTHING


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _precisions(table: Table) -> str:
    """Which runs were trained in mixed precision, where others were not."""
    told, all_mixed = [], True
    for (method, target), runs in table.items():
        mixed = sum(run["precision"] != "no" for run in runs)
        all_mixed = all_mixed and mixed == len(runs)
        if mixed:
            told.append(place(method, target) + ("" if mixed == len(runs) else f" ({mixed} of {len(runs)} runs)"))
    if not told or all_mixed:
        return ""
    return f"In mixed precision: {', '.join(told)}; the other runs in float32."


def _searched(recipe: Recipe, sparsities: Sequence[float], searches: Path) -> str:
    """With how many trials settings were searched, as far as that came to its end."""
    found: dict[str, list[str]] = {}
    for method in TABLE_METHODS:
        for sparsity in [0.0] if method == DENSE else sparsities:
            path = search_path(searches, Cell(recipe.data, sparsity), method)
            if not path.exists():
                continue
            record, config = json.loads(path.read_text(encoding="utf-8")), recipe.config(method, sparsity)
            changed = [name for name in _NETWORK if record["settings"][name] != config.to_dict()[name]]
            with_other = "".join(f", with {name}={record['settings'][name]}" for name in changed)
            for row in record["table"]:
                final = f", the best {row['finalists']} on {row['final_splits']}" if "finalists" in row else ""
                effort = f"{row['trials']} trials, {row['splits']} splits{final}{with_other}"
                found.setdefault(effort, []).append(place(method, sparsity))
    if not found:
        return "Settings were not searched for all methods alike: the recipe says where they are from."
    told = "; ".join(f"{', '.join(places)} ({effort})" for effort, places in found.items())
    return f"Settings were searched on {validation(recipe)}, from those on that the recipe had: {told}."


def _commands(recipe: Recipe, sparsities: Sequence[float], table: Table, seeds: int) -> list[str]:
    """Commands for the cells of the recipe that have too few runs, as few as will do."""
    missing: dict[tuple[float, ...], list[str]] = {}
    for method in TABLE_METHODS:
        targets = [0.0] if method == DENSE else [s for s in sparsities if s in recipe.sparsities]
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
