"""``lpsphere study``: what the theory says, put to the test on trained networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from lpsphere.cli import words
from lpsphere.cli.show import show_table
from lpsphere.cli.words import DATA, RUN, TRAINING, console
from lpsphere.experiments import auto_p, hoyer, stationarity
from lpsphere.text import markdown
from lpsphere.training import TrainConfig
from lpsphere.training.files import replace_text

__all__ = ["study"]

_COLUMNS = 8  # of the table of a condition; what was published stays in its files


def study(
    what: Annotated[
        Literal["hoyer", "auto-p", "stationarity"],
        typer.Argument(
            help="hoyer: Hoyer's sparsity of trained networks against its expectation from p; auto-p: p='auto' beside "
            "the best fixed p; stationarity: how near LpSGD comes to a stationary point, beside SGD and projection.",
        ),
    ],
    conditions: Annotated[
        str | None,
        typer.Option(
            help=f"Separated by commas; hoyer: {', '.join(hoyer.CONDITIONS)}; auto-p: {', '.join(auto_p.CONDITIONS)}. "
            "[default: all]",
            rich_help_panel=DATA,
        ),
    ] = None,
    data_dir: Annotated[
        str | None,
        typer.Option(
            help="Folder that holds data sets by name. [default: the variable LPSPHERE_DATA]", rich_help_panel=DATA
        ),
    ] = None,
    p: Annotated[
        str | None,
        typer.Option(
            help="hoyer: exponents, separated by commas, a network for each. [default: the study's, 1.1 to 6]",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="hoyer: passes over the data. [default: the study's]", rich_help_panel=TRAINING),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, help="stationarity: full-batch steps.", rich_help_panel=TRAINING)
    ] = 16_000,
    seed: Annotated[int, typer.Option(min=0, help="hoyer, stationarity: training seed.", rich_help_panel=TRAINING)] = 0,
    seeds: Annotated[
        int, typer.Option(min=1, help="auto-p: training seeds on the test rows.", rich_help_panel=TRAINING)
    ] = 5,
    processes: Annotated[
        int,
        typer.Option(min=1, help="hoyer, auto-p: trained side by side, a thread each.", rich_help_panel=RUN),
    ] = 1,
    out: Annotated[Path, typer.Option(help="Folder of the results: .json, .md, .png.", rich_help_panel=RUN)] = Path(
        "results"
    ),
) -> None:
    """Put the theory to the test on trained networks.

    hoyer trains a network for each p and compares the sparsity of its layers with what was expected before training.
    Run the same command again to go on where it stopped. Beside the results it writes a table and pictures.

    Examples:
    `lpsphere study hoyer --processes 2`

    `lpsphere study hoyer --conditions dna --p 1.1,1.5,2 --epochs 10 --out trial`

    `lpsphere study auto-p --conditions digits,dna`

    `lpsphere study stationarity`
    """
    if what == "stationarity":
        _stationarity(out / "study-stationarity.json", steps, seed)
    elif what == "auto-p":
        chosen = _chosen(conditions, auto_p.CONDITIONS)
        placed = {name: replace(config, data_dir=data_dir) for name, config in chosen.items()}
        _auto_p(out, placed, seeds, processes)
    else:
        exponents = None if p is None else words.exponents("--p", p)
        for name, condition in _chosen(conditions, hoyer.CONDITIONS).items():
            config = replace(condition.config, data_dir=data_dir, epochs=epochs or condition.config.epochs)
            changed = replace(condition, config=config, exponents=exponents or condition.exponents)
            _hoyer(out / f"study-hoyer-{name}.json", changed, seed, processes)


T = TypeVar("T")


def _chosen(conditions: str | None, known: Mapping[str, T]) -> dict[str, T]:
    names = list(known) if conditions is None else conditions.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown condition {', '.join(unknown)}: choose from {', '.join(known)}")
    return {name: known[name] for name in names}


def _hoyer(path: Path, condition: hoyer.Condition, seed: int, processes: int) -> None:
    _tell(f"{condition.title}: {len(condition.exponents)} networks; all are kept in {path}")
    with words.stoppable():
        result = hoyer.study_hoyer(
            path,
            condition,
            seed=seed,
            processes=processes,
            command=words.command_line(),
            tell=_tell,
        )
    rows = hoyer.readable(result["table"])
    show_table(console, [{name.replace("\\|", "|"): row[name] for name in list(row)[:_COLUMNS]} for row in rows])
    _written(path, ".png", "-neuron.png")


def _stationarity(path: Path, steps: int, seed: int) -> None:
    _tell(f"{len(stationarity.SETTINGS)} trainings; all are kept in {path}")
    with words.stoppable():
        result = stationarity.study_stationarity(path, steps=steps, seed=seed, command=words.command_line(), tell=_tell)
    show_table(console, stationarity.readable(result["table"]))
    _written(path)


def _auto_p(folder: Path, conditions: Mapping[str, TrainConfig], seeds: int, processes: int) -> None:
    _tell(f"{', '.join(conditions)}: all runs are kept in {folder}")
    with words.stoppable():
        table = auto_p.study_auto_p(
            folder, conditions, seeds=seeds, processes=processes, command=words.command_line(), tell=_tell
        )
    rows = auto_p.readable(table)
    show_table(console, rows)
    path = folder / "auto-p.md"
    replace_text(path, markdown(rows))
    _tell(f"table: [bold]{path}[/bold]")


def _tell(line: str) -> None:
    console.print(line, soft_wrap=True)


def _written(path: Path, *pictures: str) -> None:
    _tell(f"results: [bold]{path}[/bold]")
    _tell(f"table: [bold]{path.with_suffix('.md')}[/bold]")
    for suffix in pictures:
        _tell(f"picture: [bold]{path.with_name(path.stem + suffix)}[/bold]")
