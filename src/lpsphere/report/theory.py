"""Pictures of the theory alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpsphere.theory import expected_hoyer, hoyer_std

__all__ = ["hoyer_curves"]


def hoyer_curves(fan_ins: Sequence[int], marks: Sequence[tuple[float, int]] = ()) -> Figure:
    """Expected Hoyer's sparsity of a neuron against p, a line with its spread for each fan-in.

    Args:
        fan_ins: Connections of a neuron.
        marks: (p, fan-in) of points to mark.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes: Axes = figure.subplots()
    farthest = max([6.0, *(p for p, _ in marks)])
    p = 1 + np.geomspace(min([0.02, *(p - 1 for p, _ in marks)]), farthest - 1, 300)
    for n in fan_ins:
        mean, spread = expected_hoyer(p, n), hoyer_std(p, n)
        (line,) = axes.plot(p, mean, label=f"fan-in {n:,}")
        axes.fill_between(p, mean - spread, mean + spread, color=line.get_color(), alpha=0.15, linewidth=0)
        for exponent in (exponent for exponent, size in marks if size == n):
            axes.plot([exponent], [expected_hoyer(exponent, n)], "o", color=line.get_color(), markersize=5)
    axes.set(xlabel="p", ylabel="Hoyer's sparsity, mean ± one neuron's spread", ylim=(0, 1), xlim=(1, farthest))
    axes.set_title("What p makes of a neuron, before any training")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
