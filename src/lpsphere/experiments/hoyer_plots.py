"""Pictures of the study of Hoyer's sparsity: results in, figures out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpsphere.theory import expected_hoyer, hoyer_std

__all__ = ["layer_panels", "neuron_against_p"]

_TICKS = (1.1, 1.2, 1.5, 2, 3, 4, 6)


def layer_panels(
    results: Sequence[Mapping[str, Any]], title: str, published: Sequence[Mapping[float, float]] = ()
) -> Figure:
    """Hoyer's sparsity against p, a panel for each layer: expected with one neuron's spread, measured, published.

    Args:
        results: The runs, each with p and layers.
        title: Above the panels.
        published: Measurements by p, for each layer; may be empty.
    """
    layers = results[0]["layers"]
    columns = 3 if len(layers) <= 6 else 5
    rows = math.ceil(len(layers) / columns)
    figure = Figure(figsize=(2 + 2.9 * columns, 0.9 + 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for i, (axes, layer) in enumerate(zip(grid, layers, strict=False)):
        _layer_panel(axes, results, i, layer, published[i] if published else {})
    for axes in grid[len(layers) :]:
        axes.remove()
    for axes in grid[max(0, len(layers) - columns) : len(layers)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("p")
    for axes in grid[::columns]:
        if axes.figure is not None:
            axes.set_ylabel("Hoyer's sparsity")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)
    figure.suptitle(f"{title}: Hoyer's sparsity expected from p before training, and measured after it")
    return figure


def _layer_panel(
    axes: Axes, results: Sequence[Mapping[str, Any]], i: int, layer: Mapping[str, Any], published: Mapping[float, float]
) -> None:
    n = layer["fan_in"]
    p = np.array([run["p"] for run in results])
    dense = 1 + np.geomspace(p.min() - 1, p.max() - 1, 200)
    mean, spread = expected_hoyer(dense, n), hoyer_std(dense, n)
    axes.fill_between(dense - 1, mean - spread, mean + spread, color="C0", alpha=0.15, linewidth=0)
    axes.plot(dense - 1, mean, color="C0", label="expected (band: one neuron's spread)")
    if published:
        axes.plot(
            np.array(list(published)) - 1,
            list(published.values()),
            "x",
            color="gray",
            markersize=5,
            label="published measurements",
        )
    axes.errorbar(
        p - 1,
        [run["layers"][i]["measured"] for run in results],
        [run["layers"][i]["measured_sd"] for run in results],
        fmt="o",
        markersize=3.5,
        linewidth=0.8,
        color="C1",
        label="measured (bar: sd over the neurons)",
    )
    axes.set_xscale("log")  # of p - 1, where the sparse regime has room
    axes.set_xticks([tick - 1 for tick in _TICKS], [f"{tick:g}" for tick in _TICKS])
    axes.set_xticks([], minor=True)
    axes.set_ylim(0, 1)
    axes.set_title(f"{layer['layer'].removesuffix('.weight')}, fan-in {n:,}", fontsize=9)
    axes.grid(alpha=0.3)


def neuron_against_p(results: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """The weights of one neuron, from the same start, for every p: as a filter where they are a square, else sorted.

    Args:
        results: The runs, each with p, layers and neuron (the weights of the first neuron of the first layer).
        title: Above the pictures.
    """
    count, fan_in = len(results), len(results[0]["neuron"])
    side = math.isqrt(fan_in)
    square = side * side == fan_in and side <= 32
    columns = min(count, 6)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(1.75 * columns, 0.7 + 1.85 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=not square).ravel()
    for axes, run in zip(grid, results, strict=False):
        weights = np.array(run["neuron"]) / np.abs(run["neuron"]).max()
        if square:
            axes.imshow(weights.reshape(side, side), cmap="RdBu_r", vmin=-1, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
        else:
            axes.fill_between(np.arange(fan_in), np.sort(np.abs(weights))[::-1], color="C1", linewidth=0)
            axes.set_ylim(0, 1)
        ratio = np.abs(weights).sum() / math.sqrt((weights**2).sum())
        sparsity = (math.sqrt(fan_in) - ratio) / (math.sqrt(fan_in) - 1)
        axes.set_title(f"p = {run['p']:g}, H = {sparsity:.2f}", fontsize=9)
    for axes in grid[count:]:
        axes.remove()
    how = "its filter over its largest weight" if square else "magnitudes over the largest, sorted"
    layer = results[0]["layers"][0]["layer"].removesuffix(".weight")
    figure.suptitle(f"{title}: one neuron of {layer} ({fan_in} weights) for each p\n{how}", fontsize=10)
    return figure
