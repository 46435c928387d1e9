"""``lpsphere predict``: what the theory expects of p, and which p it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lpsphere.cli import words
from lpsphere.cli.show import show_table
from lpsphere.cli.words import console
from lpsphere.experiments.plots import save_figure
from lpsphere.report.theory import hoyer_curves
from lpsphere.theory import expected_hoyer, hoyer_std, p_for_hoyer, p_for_sparsity, weak_fraction

__all__ = ["predict"]


def predict(
    p: Annotated[float | None, typer.Option(help="Exponent of the spheres, above 1: what comes of it?")] = None,
    hoyer: Annotated[
        float | None, typer.Option(help="Hoyer's sparsity of a neuron, between 0 and 1: which p gives it?")
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(help="Fraction of a neuron's connections under the threshold, between 0 and 1: which p gives it?"),
    ] = None,
    fan_in: Annotated[str, typer.Option(help="Connections of a neuron, separated by commas.")] = "25,144,288,512,3136",
    threshold: Annotated[
        float, typer.Option(help="Weak are connections under this part of their neuron's mean magnitude.")
    ] = 0.2,
    plot: Annotated[
        Path | None, typer.Option(help="Draw expected Hoyer's sparsity against p, with its spread, into this file.")
    ] = None,
) -> None:
    """Predict how sparse neurons become, before any training; or find the p for the sparsity wanted.

    Give one of --p, --hoyer and --sparsity. The predictions hold as far as squared weights follow a Gamma law.

    Examples:
    `lpsphere predict --p 1.2 --fan-in 288`

    `lpsphere predict --hoyer 0.7`

    `lpsphere predict --sparsity 0.9 --plot hoyer.png`
    """
    given = {"--p": p, "--hoyer": hoyer, "--sparsity": sparsity}
    if sum(value is not None for value in given.values()) != 1:
        raise ValueError(f"predict takes one of {', '.join(given)}, such as --p 1.2")
    sizes = words.numbers("--fan-in", fan_in)
    if hoyer is not None:
        exponents = [p_for_hoyer(hoyer, n) for n in sizes]
    else:
        exponents = [p_for_sparsity(sparsity, threshold) if sparsity is not None else float(p or 0)] * len(sizes)
    rows = [
        {
            "fan-in": f"{n:,}",
            "p": f"{exponent:.6g}",
            "expected Hoyer": f"{expected_hoyer(exponent, n):.5f}",
            "spread of a neuron": f"{hoyer_std(exponent, n):.5f}",
            f"weak (< {threshold:g})": f"{weak_fraction(exponent, threshold):.4f}",
        }
        for n, exponent in zip(sizes, exponents, strict=True)
    ]
    show_table(console, rows)
    if sparsity is not None:
        console.print(
            "This p makes so many weights small. To drop them in training, a larger p does better: see the recipes.",
            soft_wrap=True,
        )
    if plot is not None:
        figure = hoyer_curves(sizes, marks=list(zip(exponents, sizes, strict=True)))
        save_figure(plot, figure)
        console.print(f"picture: [bold]{plot}[/bold]", soft_wrap=True)
