"""Pictures of the theory alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpsphere.theory import expected_hoyer, hoyer_std

__all__ = ["hoyer_curves"]

_TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


def hoyer_curves(fan_ins: Sequence[int], marks: Sequence[tuple[float, int]] = ()) -> Figure:
    """Expected Hoyer's sparsity of a neuron against p, a line with its spread for each fan-in.

    Args:
        fan_ins: Connections of a neuron.
        marks: (p, fan-in) of points to mark.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes: Axes = figure.subplots()
    excess = np.geomspace(min([0.02, *(p - 1 for p, _ in marks)]), max([5.0, *(p - 1 for p, _ in marks)]), 300)
    for n in fan_ins:
        mean, spread = expected_hoyer(1 + excess, n), hoyer_std(1 + excess, n)
        (line,) = axes.plot(excess, mean, label=f"fan-in {n:,}")
        axes.fill_between(excess, mean - spread, mean + spread, color=line.get_color(), alpha=0.15, linewidth=0)
        for p in (p for p, size in marks if size == n):
            axes.plot([p - 1], [expected_hoyer(p, n)], "o", color=line.get_color(), markersize=5)
    axes.set_xscale("log")  # of p - 1, where the sparse regime has room
    axes.set_xticks(_TICKS, [f"{1 + tick:g}" for tick in _TICKS], minor=False)
    axes.set_xticks([], minor=True)
    axes.set(xlabel="p", ylabel="Hoyer's sparsity, mean ± one neuron's spread", ylim=(0, 1))
    axes.set(xlim=(excess[0], excess[-1]), title="What p makes of a neuron, before any training")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
