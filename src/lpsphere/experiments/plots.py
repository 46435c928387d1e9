"""Pictures that several experiments draw, and how all are saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpsphere.files import replace_file

__all__ = ["accuracy_against_sparsity", "save_figure"]


def save_figure(path: Path, figure: Figure) -> None:
    """Save a picture in the format of its suffix, PNG without one; the file is complete or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix.lstrip(".") or "png"
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=110, format=kind))


def accuracy_against_sparsity(
    rows: Sequence[Mapping[str, Any]], title: str, *, band: Mapping[str, Any] | None = None, baseline: str | None = None
) -> Figure:
    """Mean test accuracy with its standard deviation against sparsity, a line for each method.

    Args:
        rows: With method, target (sparsity), test_accuracy and test_accuracy_sd, as fractions.
        title: Above the picture.
        band: A row drawn as a level with its spread, such as dense training.
        baseline: The method that is drawn black and broken.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes: Axes = figure.subplots()
    methods = list(dict.fromkeys(row["method"] for row in rows))
    positions = {target: i for i, target in enumerate(sorted({row["target"] for row in rows}))}
    for i, method in enumerate(methods):
        chosen = [row for row in rows if row["method"] == method]
        axes.errorbar(
            [positions[row["target"]] + 0.06 * (i - (len(methods) - 1) / 2) for row in chosen],
            [100 * row["test_accuracy"] for row in chosen],
            [100 * row["test_accuracy_sd"] for row in chosen],
            label=method,
            marker="o",
            markersize=4,
            capsize=2,
            linestyle="--" if method == baseline else "-",
            color="black" if method == baseline else None,
        )
    if band is not None:
        level, spread = 100 * band["test_accuracy"], 100 * band["test_accuracy_sd"]
        axes.axhline(level, color="gray", linewidth=1, label=band["method"])
        axes.axhspan(level - spread, level + spread, color="gray", alpha=0.15, linewidth=0)
    axes.set_xticks(list(positions.values()), [f"{100 * target:g} %" for target in positions])
    axes.set_xlim(-0.5, len(positions) - 0.5)
    axes.set(xlabel="Sparsity (connections gone)", ylabel="Test accuracy (%)", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
