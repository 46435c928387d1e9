"""``lpsphere ...``: turns words into a configuration, shows progress, says what came out. Decides nothing else."""

from __future__ import annotations

import os
import shlex
import warnings
from contextlib import nullcontext
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from lpsphere.cli import words
from lpsphere.cli.compare import compare
from lpsphere.cli.export import export
from lpsphere.cli.predict import predict
from lpsphere.cli.progress import training_progress
from lpsphere.cli.reproduce import reproduce
from lpsphere.cli.show import describe_run, show_result
from lpsphere.cli.study import study
from lpsphere.cli.words import DATA, METHOD, RUN, TRAINING, console
from lpsphere.report import write_report
from lpsphere.training import Interrupted, TrainConfig, Trainer, evaluate_run
from lpsphere.training.config import changes
from lpsphere.training.files import remove_folder
from lpsphere.training.trackers import FOLDER

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Train sparse neural networks from scratch: every neuron's weights on the unit Lp sphere. **p is the dial**: "
    "the closer to 1, the sparser.\n\nStart with `lpsphere train`: a network on handwritten digits with 90 % of its "
    "connections gone, in seconds.",
)
_RUNS = Path("runs")
_FILES = ("history.jsonl", "summary.json", "model.safetensors", "report.html", "config.yaml")
_FOLDERS = ("checkpoints", FOLDER)


@app.command()
def train(
    data: Annotated[
        str | None,
        typer.Option(
            help="**digits**, breast_cancer or wine (they ship with scikit-learn); dna, mushroom, climate, mnist, "
            "fashion-mnist, cifar-10 or tiny-imagenet (a folder of the publisher's files in --data-dir, else from "
            "OpenML); a CSV file with a header; a folder of IDX images. [default: digits]",
            rich_help_panel=DATA,
        ),
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="The column of a CSV file to predict.", rich_help_panel=DATA)
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="classification or regression. [default: classification]", rich_help_panel=DATA)
    ] = None,
    missing: Annotated[
        str | None,
        typer.Option(
            help="Missing values of a CSV file: error, drop (the row) or impute. [default: error]", rich_help_panel=DATA
        ),
    ] = None,
    data_dir: Annotated[
        str | None,
        typer.Option(
            help="Folder that holds data sets by name; looked in before the working directory and the folder in the "
            "variable LPSPHERE_DATA.",
            rich_help_panel=DATA,
        ),
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the hidden connections that shall be gone, in \\[0, 1). [default: 0.9]",
            rich_help_panel=METHOD,
        ),
    ] = None,
    p: Annotated[
        str | None,
        typer.Option(
            help="Exponent of the spheres, above 1; 1.05 to 1.3 suits 90 % and more; **auto**: what suits --sparsity. "
            "[default: 1.15]",
            rich_help_panel=METHOD,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="semi-pruning, set, rigl, snip, gmp, static or dense. [default: semi-pruning]", rich_help_panel=METHOD
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(help="lpsgd, or sgd or adamw without spheres. [default: lpsgd]", rich_help_panel=METHOD),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="mlp, wide_resnet, cnn, or auto: mlp for tables, wide_resnet for images. [default: auto]",
            rich_help_panel=METHOD,
        ),
    ] = None,
    hidden: Annotated[
        str | None, typer.Option(help="Widths of the MLP's hidden layers. [default: 256,256]", rich_help_panel=METHOD)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the data. [default: 20]", rich_help_panel=TRAINING)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows of a step. [default: 64]", rich_help_panel=TRAINING)
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate on spheres, in \\[0, 1] (otherwise of all). [default: 0.01; sgd 0.1; adamw 0.001]",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    other_lr: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate of biases, norms and the output layer. [default: 0.2]", rich_help_panel=TRAINING
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="Learning rate over training: piecewise, cosine or constant. [default: piecewise]",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of weights, masks and the order of rows. [default: 0]", rich_help_panel=TRAINING),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or auto. [default: auto]", rich_help_panel=TRAINING)
    ] = None,
    mixed_precision: Annotated[
        str | None,
        typer.Option(help="no, bf16, fp16, or auto: bf16 where it is native. [default: no]", rich_help_panel=TRAINING),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads. [default: all, one for small networks]", rich_help_panel=TRAINING)
    ] = None,
    trackers: Annotated[
        str | None,
        typer.Option(
            help="Experiment trackers that are told all that training shows, such as tensorboard or tensorboard,wandb; "
            "each needs its package.",
            rich_help_panel=RUN,
        ),
    ] = None,
    progress: Annotated[
        bool, typer.Option("--progress/--no-progress", help="Show how training goes on.", rich_help_panel=RUN)
    ] = True,
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file of settings, such as a run's config.yaml; options given here win.", rich_help_panel=RUN
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any other setting, NAME=VALUE, such as --set regrow=0.5; may be repeated.",
            rich_help_panel=RUN,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder. [default: runs/DATA-1, -2, ...]", rich_help_panel=RUN)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out where it stopped.", rich_help_panel=RUN)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in --out, if there is one.", rich_help_panel=RUN)
    ] = False,
) -> None:
    """Train a sparse network and write a report.

    Without options: handwritten digits, sparsity 0.9. Ctrl-C stops cleanly; --resume continues exactly there.

    Examples:
    `lpsphere train`

    `lpsphere train --data table.csv --label-column species --sparsity 0.8`

    `lpsphere train --data fashion-mnist --data-dir ~/data --batch-size 256 --epochs 50`

    `lpsphere train --out runs/digits-1 --resume`

    `torchrun --nproc-per-node 2 -m lpsphere train`
    """
    given = {
        "data": data,
        "label_column": label_column,
        "task": task,
        "missing": missing,
        "data_dir": data_dir,
        "sparsity": sparsity,
        "p": None if p is None else words.exponent("--p", p),
        "method": method,
        "optimizer": optimizer,
        "model": model,
        "hidden": None if hidden is None else words.numbers("--hidden", hidden),
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "other_lr": other_lr,
        "schedule": schedule,
        "seed": seed,
        "device": device,
        "mixed_precision": mixed_precision,
        "threads": threads,
        "trackers": None if trackers is None else words.names(trackers),
    }
    chosen = {name: value for name, value in given.items() if value is not None} | words.settings(settings or [])
    folder, run = _run(chosen, config, out, resume, overwrite)
    trainer = Trainer(run, folder, resume=resume, command=words.command_line())
    console.print(describe_run(trainer))
    try:
        with training_progress(console, trainer) if progress else nullcontext() as on_step:
            result = trainer.fit(on_step)
    except Interrupted as reason:
        console.print(
            f"\n{reason}. Continue with\n  [bold]lpsphere train --out {shlex.quote(str(folder))} --resume[/bold]"
        )
        raise typer.Exit(130) from None
    if trainer.is_main:
        show_result(console, result, write_report(folder))


app.command()(compare)
app.command()(predict)
app.command()(study)
app.command()(reproduce)
app.command()(export)


@app.command()
def evaluate(folder: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")]) -> None:
    """Evaluate a finished run's network again on the test rows of its data."""
    for name, value in evaluate_run(folder).items():
        console.print(f"{name:>22}  {value:,}" if isinstance(value, int) else f"{name:>22}  {value:.6g}")


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.", metavar="RUN")]) -> None:
    """Write a run's report anew: one HTML file, to open in any browser."""
    console.print(f"report: [bold]{write_report(folder)}[/bold]", soft_wrap=True)


def main() -> None:
    """Run the command line; an error ends with its message (and a traceback where LPSPHERE_TRACEBACK is set)."""
    warnings.showwarning = _show_warning
    try:
        app(prog_name="lpsphere")
    except (ValueError, TypeError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        if os.environ.get("LPSPHERE_TRACEBACK"):
            raise
        which = f"error in process {words.process()}:" if words.process() else "error:"
        Console(stderr=True, soft_wrap=True).print(f"[bold red]{which}[/bold red]", Text(str(error)))
        raise SystemExit(2) from None


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning) and not words.process():
        Console(stderr=True, soft_wrap=True).print("[yellow]warning:[/yellow]", Text(str(message)))


def _run(
    chosen: dict[str, Any], file: Path | None, out: Path | None, resume: bool, overwrite: bool
) -> tuple[Path, TrainConfig]:
    """The run's folder and its settings: from the folder, from a file, from the options."""
    base = {} if file is None else {k: v for k, v in asdict(TrainConfig.load(file)).items()}
    if resume and out is None:
        raise ValueError("--resume needs the run's folder: lpsphere train --out runs/digits-1 --resume")
    run = TrainConfig.from_dict(base | chosen)
    folder = out or _free_folder(run.data)
    if not (folder / "config.yaml").exists():
        return folder, run
    if resume:
        return folder, _resumed(TrainConfig.load(folder / "config.yaml"), base | chosen, folder)
    if not overwrite:
        raise ValueError(
            f"{folder} holds a run: continue it with --resume, replace it with --overwrite, or give another --out"
        )
    if words.process() == 0:
        for name in _FOLDERS:
            remove_folder(folder / name)
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
    return folder, run


def _resumed(saved: TrainConfig, chosen: dict[str, Any], folder: Path) -> TrainConfig:
    """The settings of a run that goes on: its own, but for those that do not change what it computes."""
    run = TrainConfig.from_dict(asdict(saved) | chosen)
    differing = changes(saved, run)
    if differing:
        raise ValueError(f"the run in {folder} was started with {differing}: leave that out, or give another --out")
    return run


def _free_folder(data: str) -> Path:
    name = Path(data).name.split(".")[0] or "run"
    return next(path for i in count(1) if not (path := _RUNS / f"{name}-{i}").exists())
