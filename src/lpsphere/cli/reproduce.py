"""``lpsphere reproduce``: the experiments of the documentation, and the benchmark table with its page."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lpsphere.cli import words
from lpsphere.cli.show import show_table
from lpsphere.cli.words import DATA, METHOD, RUN, TRAINING, console
from lpsphere.experiments.ablation import ablate
from lpsphere.experiments.ablation_page import write_ablation_page
from lpsphere.experiments.digits import digits
from lpsphere.experiments.grow_init import grow_init
from lpsphere.experiments.recipes import DATA as TABLE_DATA
from lpsphere.experiments.recipes import TABLE_METHODS
from lpsphere.experiments.results_page import write_page
from lpsphere.experiments.sparsity import sparsity
from lpsphere.experiments.table import (
    Cell,
    Places,
    cells_of_methods,
    overview,
    parse_cells,
    parse_methods,
    read_results,
    table_runs,
    train_table,
)
from lpsphere.experiments.table_search import FINAL, search_cell

__all__ = ["reproduce"]

_EXPERIMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "digits": digits,
    "sparsity": sparsity,
    "grow-init": grow_init,
}
_SEARCHES = Path("results/table-search")
_ABLATIONS = Path("results/ablation")
_PAGES = Path("docs")
_TAKES = {
    "table": (
        "--cells", "--data-dir", "--methods", "--seeds", "--device", "--search", "--trials", "--splits", "--finalists",
        "--processes", "--minutes",
    ),
    "ablation": ("--cells", "--data-dir", "--methods", "--device", "--splits", "--processes", "--epochs", "--change"),
    "page": ("--seeds",),
    **dict.fromkeys(_EXPERIMENTS, ("--seeds",)),
}  # fmt: skip
"""Options that not every experiment takes."""
_LIST_APART = re.compile(r",(?![^\[]*\])")
"""Commas between settings, not those of a list such as hidden=[512,512]."""


def reproduce(
    what: Annotated[
        str,
        typer.Argument(
            help="digits: sparsity 0.9 against dense SGD; sparsity: accuracy against sparsity for several p; "
            "grow-init: where new connections start; table: the paper's data sets at its sparsities and beyond; "
            "ablation: its recipes with one setting changed at a time; page: docs/results.md and "
            "docs/ablations.md from the results of the two.",
            metavar="WHAT",
        ),
    ],
    cells: Annotated[
        str | None,
        typer.Option(
            help="table, ablation: data sets and sparsities, such as fashion-mnist:0.9,dna; data: "
            f"{', '.join(TABLE_DATA)}. [default: all]",
            rich_help_panel=DATA,
        ),
    ] = None,
    data_dir: Annotated[
        str | None,
        typer.Option(
            help="table, ablation: folder that holds data sets by name. [default: the variable LPSPHERE_DATA]",
            rich_help_panel=DATA,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help=f"table, ablation: {', '.join(TABLE_METHODS)}. [default: semi-pruning]", rich_help_panel=METHOD
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Training seeds for each setting; --search, ablation: see --splits. [default: 5]",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="table, ablation: cpu, cuda or auto. [default: auto]", rich_help_panel=TRAINING)
    ] = None,
    search: Annotated[
        bool,
        typer.Option(
            "--search",
            help="table: look for better settings on parts of the training rows, and print them for the recipes.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    trials: Annotated[
        int | None, typer.Option(min=1, help="--search: settings tried. [default: 16]", rich_help_panel=TRAINING)
    ] = None,
    splits: Annotated[
        int | None,
        typer.Option(
            min=1, help="--search, ablation: validation splits of each. [default: 2; 5]", rich_help_panel=TRAINING
        ),
    ] = None,
    finalists: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"--search: how many of the best settings are scored on {FINAL} times the splits, to choose among "
            "them. [default: 1]",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="ablation: epochs of each run. [default: the recipe's]", rich_help_panel=TRAINING),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            help="ablation: settings to change together, such as batch_size=128,lr=0.02, in place of the usual list; "
            "can be given again.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="table, ablation: runs side by side. [default: 1]", rich_help_panel=RUN)
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="table: stop after so long, all saved (--search: between two trials). [default: at the end]",
            rich_help_panel=RUN,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of the results; table, ablation, page: a folder. [default: results/WHAT.json, "
            "results/table, results/table-search, results/ablation, docs]",
            rich_help_panel=RUN,
        ),
    ] = None,
) -> None:
    """Run an experiment of the documentation; run it again to go on where it stopped.

    The runs of a table are shared by all who give its command at the same time.

    Examples:
    `lpsphere reproduce digits`

    `lpsphere reproduce table --cells climate,dna:0.9 --methods semi-pruning,dense`

    `lpsphere reproduce table --cells fashion-mnist:0.9 --search --trials 16 --processes 2`

    `lpsphere reproduce page`
    """
    known = (*_EXPERIMENTS, "table", "ablation", "page")
    if what not in known:
        raise ValueError(f"unknown experiment {what!r}: choose one of {', '.join(known)}")
    options = {
        "--cells": cells,
        "--data-dir": data_dir,
        "--methods": methods,
        "--seeds": seeds,
        "--device": device,
        "--search": search or None,
        "--trials": trials,
        "--splits": splits,
        "--finalists": finalists,
        "--processes": processes,
        "--epochs": epochs,
        "--change": change or None,
        "--minutes": minutes,
    }
    _check_options(what, [name for name, value in options.items() if value is not None])
    deadline = None if minutes is None else time.time() + 60 * minutes
    machine = {"device": device or "auto", "data_dir": data_dir, "threads": _threads(processes or 1)}
    with words.stoppable():
        if what == "page":
            _pages(out or _PAGES, seeds or 5)
        elif what == "ablation":
            _ablation(
                cells_of_methods(parse_cells(cells), parse_methods(methods)), out or _ABLATIONS, splits or 5,
                processes or 1, epochs, _changes(change), machine,
            )  # fmt: skip
        elif what != "table":
            _experiment(what, out or Path("results") / f"{what}.json", seeds or 5)
        elif search:
            _search(
                cells_of_methods(parse_cells(cells), parse_methods(methods)), out or _SEARCHES, trials or 16,
                splits or 2, finalists or 1, processes or 1, deadline, machine,
            )  # fmt: skip
        else:
            _table(parse_cells(cells), parse_methods(methods), out, seeds or 5, processes or 1, deadline, machine)


def _check_options(what: str, given: list[str]) -> None:
    """Refuse options that the experiment does not take."""
    for name in given:
        if name not in _TAKES.get(what, ()):
            places = " and ".join(f"reproduce {place}" for place, names in _TAKES.items() if name in names)
            raise ValueError(f"{name}: this is for {places}; leave it out for {what}")
    if what == "table" and "--search" not in given and {"--trials", "--splits", "--finalists"} & set(given):
        raise ValueError("--trials, --splits and --finalists are for --search: add it, or leave them out")
    if {"--search", "--seeds"} <= set(given):
        raise ValueError("--seeds: a search has no seeds but those of its validation splits: say --splits")


def _experiment(what: str, path: Path, seeds: int) -> None:
    result = _EXPERIMENTS[what](path, seeds, words.command_line(), _tell)
    show_table(console, result["table"])
    _tell(f"results: [bold]{path}[/bold]")


def _changes(given: list[str] | None) -> dict[str, dict[str, Any]] | None:
    return None if not given else {text: words.settings(_LIST_APART.split(text), "--change") for text in given}


def _ablation(
    wanted: list[tuple[Cell, str]],
    folder: Path,
    splits: int,
    processes: int,
    epochs: int | None,
    changes: dict[str, dict[str, Any]] | None,
    machine: dict[str, Any],
) -> None:
    for cell, method in wanted:
        path, result = ablate(
            cell,
            method,
            folder,
            splits=splits,
            command=words.command_line(),
            tell=_tell,
            processes=processes,
            epochs=epochs,
            changes=changes,
            machine=machine,
        )
        _tell(f"{method} at {cell}, on validation parts:")
        show_table(console, result["table"])
        _tell(f"results: [bold]{path}[/bold]")


def _table(
    cells: list[Cell],
    methods: list[str],
    out: Path | None,
    seeds: int,
    processes: int,
    deadline: float | None,
    machine: dict[str, Any],
) -> None:
    places = Places() if out is None else Places(out, out / "runs")
    runs = table_runs(cells, methods, seeds, **machine)
    _tell(f"{len(runs)} runs; what they come to is kept in {places.results}")
    left = train_table(runs, places, processes=processes, deadline=deadline, tell=_tell)
    show_table(console, overview(read_results(places.results), runs))
    _tell(f"results: [bold]{places.results}[/bold]")
    if left:
        _go_on(f"{left} of {len(runs)} runs are left", deadline)


def _pages(folder: Path, seeds: int) -> None:
    _tell(f"page: [bold]{write_page(folder / 'results.md', Places().results, _SEARCHES, seeds)}[/bold]")
    _tell(f"page: [bold]{write_ablation_page(folder / 'ablations.md', _ABLATIONS)}[/bold]")


def _search(
    wanted: list[tuple[Cell, str]],
    folder: Path,
    trials: int,
    splits: int,
    finalists: int,
    processes: int,
    deadline: float | None,
    machine: dict[str, Any],
) -> None:
    _tell(f"{len(wanted)} searches of {trials} trials on {splits} validation splits; all is kept in {folder}")
    for i, (cell, method) in enumerate(wanted):
        found = search_cell(
            cell,
            method,
            folder,
            trials=trials,
            splits=splits,
            finalists=finalists,
            tell=_tell,
            processes=processes,
            deadline=deadline,
            machine=machine,
        )
        if found is None:
            _go_on(f"{len(wanted) - i} of {len(wanted)} searches are left", deadline)
            return
        console.print(found, markup=False, highlight=False, soft_wrap=True)


def _go_on(what: str, deadline: float | None) -> None:
    """Say what is left; whoever gives the command in a loop looks for the last words."""
    why = "" if deadline is None or time.time() < deadline else "stopped in time, all saved; "
    _tell(f"{why}{what}: give the same command again")


def _threads(processes: int) -> int | None:
    """CPU threads of each process; None: torch's choice."""
    return None if processes == 1 else max(1, torch.get_num_threads() // processes)


def _tell(line: str) -> None:
    console.print(line, soft_wrap=True)
