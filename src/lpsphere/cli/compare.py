"""``lpsphere compare``: methods on equal terms."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lpsphere.cli import words
from lpsphere.cli.show import show_table
from lpsphere.cli.words import DATA, METHOD, RUN, TRAINING, console
from lpsphere.experiments.compare import compare as compare_methods
from lpsphere.experiments.compare import parse_methods, readable
from lpsphere.training import TrainConfig

__all__ = ["compare"]

_WIDE = ("dead", "training FLOPs", "trials")  # columns of a comparison that stay in its files


def compare(
    methods: Annotated[
        str,
        typer.Option(
            help="Methods, separated by commas: dense, static, set, rigl, snip, gmp, semi-pruning. The "
            "optimizer is lpsgd for semi-pruning and sgd for the others; **rigl:adamw:every=100** names another, and "
            "settings of that method alone.",
            rich_help_panel=METHOD,
        ),
    ] = "dense,static,set,rigl,snip,gmp,semi-pruning",
    sparsities: Annotated[
        str, typer.Option(help="Target sparsities, separated by commas.", rich_help_panel=METHOD)
    ] = "0.9,0.98",
    reference: Annotated[
        str | None,
        typer.Option(
            help="The method that the others are compared with, seed by seed. [default: the last]",
            rich_help_panel=METHOD,
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="As for lpsphere train. [default: digits]", rich_help_panel=DATA)
    ] = None,
    data_dir: Annotated[
        str | None,
        typer.Option(
            help="Folder that holds data sets by name. [default: the variable LPSPHERE_DATA]", rich_help_panel=DATA
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the data. [default: 20]", rich_help_panel=TRAINING)
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds of the test runs.", rich_help_panel=TRAINING)] = 5,
    trials: Annotated[
        int,
        typer.Option(
            min=1,
            help="Learning rates tried for each method and sparsity, the same number for all; 1: the defaults.",
            rich_help_panel=TRAINING,
        ),
    ] = 8,
    splits: Annotated[
        int, typer.Option(min=1, help="Validation splits that each is scored on.", rich_help_panel=TRAINING)
    ] = 2,
    processes: Annotated[
        int, typer.Option(min=1, help="Runs trained side by side, a thread each.", rich_help_panel=RUN)
    ] = 1,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.", rich_help_panel=RUN)] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any other setting of lpsphere train, NAME=VALUE; one of methods goes to those that take it.",
            rich_help_panel=RUN,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="JSON file of the results. [default: results/compare-DATA.json]", rich_help_panel=RUN),
    ] = None,
) -> None:
    """Compare methods on equal terms: data, network, budget, schedule and effort of tuning are the same for all.

    Run the same command again to go on where it stopped. Beside the results it writes a picture and a table.

    Examples:
    `lpsphere compare`

    `lpsphere compare --methods rigl,rigl:lpsgd,semi-pruning:regrow=0.5 --sparsities 0.95 --data wine`
    """
    given = {"data": data, "data_dir": data_dir, "epochs": epochs}
    base = {} if config is None else asdict(TrainConfig.load(config))
    base["threads"] = base.get("threads") or 1
    chosen = {name: value for name, value in given.items() if value is not None} | words.settings(settings or [])
    run = TrainConfig.from_dict(base | chosen)
    entries = parse_methods(methods)
    against = entries[-1:] if reference is None else parse_methods(reference)
    if len(against) != 1 or against[0] not in entries:
        raise ValueError(f"--reference must be one of --methods {methods}, got {reference}")
    targets = words.fractions("--sparsities", sparsities)
    path = out or Path("results") / f"compare-{Path(run.data).name.split('.')[0]}.json"
    sizes = [1 if entry.method == "dense" else len(targets) for entry in entries]
    console.print(
        f"{len(entries)} methods: {sum(sizes) * trials * splits:,} runs to find learning rates ({trials} for each, "
        f"on {splits} validation splits), {sum(sizes) * seeds:,} runs to test; all are kept in {path}",
        soft_wrap=True,
    )
    with words.stoppable():
        result = compare_methods(
            path,
            run,
            entries,
            targets,
            seeds=seeds,
            trials=trials,
            splits=splits,
            reference=against[0],
            command=words.command_line(),
            tell=lambda line: console.print(line, soft_wrap=True),
            processes=processes,
        )
    narrow = [{name: row[name] for name in row if name not in _WIDE} for row in readable(result["table"])]
    show_table(console, narrow)
    for suffix, what in ((".json", "results"), (".md", "table"), (".png", "picture")):
        console.print(f"{what}: [bold]{path.with_suffix(suffix)}[/bold]", soft_wrap=True)
