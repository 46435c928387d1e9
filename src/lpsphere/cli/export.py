"""``lpsphere export``: a finished run's network as a file for others to run or read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from lpsphere.cli.words import console
from lpsphere.sparse.export import FORMATS
from lpsphere.sparse.export import export as export_model
from lpsphere.training import TrainConfig
from lpsphere.training.checkpoints import load_model
from lpsphere.training.setup import load_data

__all__ = ["export"]

_ROWS = 2


def export(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")],
    to: Annotated[
        Path,
        typer.Option(
            help="The file; its suffix says what it becomes: .safetensors (dense), .sparse.safetensors (only the "
            "connections), .onnx or .pt2 (a program of torch).",
        ),
    ],
    format: Annotated[
        str | None, typer.Option(help=f"{', '.join(FORMATS)}. [default: what the suffix says]", show_default=False)
    ] = None,
) -> None:
    """Export a finished run's network: dense or sparse tensors, ONNX, or a program of torch.

    Only the sparse file is smaller for its zeros. `lpsphere.load_export` reads all of them.

    Examples:
    `lpsphere export runs/digits-1 --to digits.sparse.safetensors`

    `lpsphere export runs/digits-1 --to digits.onnx`
    """
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{folder} holds no run: give a folder that lpsphere train wrote")
    model = load_model(folder / "model.safetensors")
    traced = to.suffix in (".onnx", ".pt2")
    console.print(
        str(export_model(model, to, format=format, example=_rows(folder) if traced else None)), soft_wrap=True
    )


def _rows(folder: Path) -> Tensor:
    """Some test rows of the run's data, to trace the network with."""
    return load_data(TrainConfig.load(folder / "config.yaml")).x_test[:_ROWS]
