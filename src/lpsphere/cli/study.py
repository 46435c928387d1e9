"""``lpsphere study``: what the theory says, put to the test on trained networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from lpsphere.cli import words
from lpsphere.cli.show import show_table
from lpsphere.cli.words import DATA, RUN, TRAINING, console
from lpsphere.experiments.hoyer import CONDITIONS, EXPONENTS, readable, study_hoyer

__all__ = ["study"]

_EXPONENTS = ",".join(f"{value:g}" for value in EXPONENTS)


def study(
    what: Annotated[
        Literal["hoyer"],
        typer.Argument(help="hoyer: Hoyer's sparsity of trained networks against its expectation from p."),
    ],
    conditions: Annotated[
        str, typer.Option(help=f"Which of {', '.join(CONDITIONS)}, separated by commas.", rich_help_panel=DATA)
    ] = ",".join(CONDITIONS),
    data_dir: Annotated[
        str | None,
        typer.Option(
            help="Folder that holds data sets by name. [default: the variable LPSPHERE_DATA]", rich_help_panel=DATA
        ),
    ] = None,
    p: Annotated[
        str, typer.Option(help="Exponents, separated by commas: a network for each.", rich_help_panel=TRAINING)
    ] = _EXPONENTS,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data. [default: the study's]", rich_help_panel=TRAINING)
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Training seed, the same for every p.", rich_help_panel=TRAINING)
    ] = 0,
    processes: Annotated[
        int, typer.Option(min=1, help="Networks trained side by side, a thread each.", rich_help_panel=RUN)
    ] = 1,
    out: Annotated[
        Path, typer.Option(help="Folder of the results: study-hoyer-CONDITION.json, .md, .png.", rich_help_panel=RUN)
    ] = Path("results"),
) -> None:
    """Train a network for each p and compare the sparsity of its layers with what was expected before training.

    Run the same command again to go on where it stopped. Beside the results it writes a table, a picture of all layers
    and one of a neuron.

    Examples:
    `lpsphere study hoyer`

    `lpsphere study hoyer --conditions dna --p 1.1,1.5,2 --epochs 10 --out trial`
    """
    exponents = words.exponents("--p", p)
    names = conditions.split(",")
    unknown = [name for name in names if name not in CONDITIONS]
    if unknown:
        raise ValueError(f"unknown condition {', '.join(unknown)}: choose from {', '.join(CONDITIONS)}")
    for name in names:
        condition = CONDITIONS[name]
        config = replace(condition.config, data_dir=data_dir, epochs=epochs or condition.config.epochs)
        condition = replace(condition, config=config)
        path = out / f"study-{what}-{name}.json"
        console.print(f"{condition.title}: {len(exponents)} networks; all are kept in {path}", soft_wrap=True)
        with words.stoppable():
            result = study_hoyer(
                path,
                condition,
                exponents=exponents,
                seed=seed,
                processes=processes,
                command=words.command_line(),
                tell=lambda line: console.print(line, soft_wrap=True),
            )
        show_table(console, readable(result["table"]))
        written = [path, path.with_suffix(".md"), path.with_suffix(".png"), path.with_name(f"{path.stem}-neuron.png")]
        for what_it_is, file in zip(("results", "table", "picture", "one neuron"), written, strict=True):
            console.print(f"{what_it_is}: [bold]{file}[/bold]", soft_wrap=True)
