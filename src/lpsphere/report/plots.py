"""The figures of a run, as matplotlib `Figure` objects of their own: no pyplot, no global state.

Each function takes a `Run` (or what it measured) and returns a figure, or None where the run has nothing to
draw. All share one size, so that they sit side by side; save one by `figure.savefig("accuracy.png", dpi=200)`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from lpsphere.report.formats import percent, power_of_ten, significant
from lpsphere.report.run import Record, Run, number
from lpsphere.report.style import COLOURS

MAX_LAYERS = 36
"""More layers than this do not fit a figure: the ones with most connections are drawn."""

_WIDTH, _HEIGHT, _TALL = 5.2, 3.3, 4.6  # inches
_TEXT = 11.0  # points; a figure is 374 points wide, so this is legible at a phone's width
_MAX_POINTS = 800
_BINS_PER_DECADE = 6
_Series = tuple[NDArray[np.float64], NDArray[np.float64]]


def score_figure(run: Run) -> Figure | None:
    """Accuracy in per cent (or R²) against the epoch, on training and test data."""
    name, scale = ("r2", 1.0) if run.regression else ("accuracy", 100.0)
    train, test = (_series(run.epochs, "epoch", f"{part}_{name}", scale) for part in ("train", "test"))
    figure = _curves(train, test, "R²" if run.regression else "Accuracy (%)")
    if figure is not None and test[0].size:
        last = test[1][-1]
        text = f"{last:.3f}" if run.regression else percent(last / 100)
        _end_label(figure.axes[0], test, text)
    return figure


def loss_figure(run: Run) -> Figure | None:
    """Mean loss per example against the epoch; a logarithmic axis where it spans over 1.5 decades."""
    train, test = (_series(run.epochs, "epoch", f"{part}_loss") for part in ("train", "test"))
    figure = _curves(train, test, "Loss (mean per example)")
    if figure is not None and test[0].size:
        values = np.concatenate([train[1], test[1]])
        if values.min() > 0 and values.max() / values.min() > 30:
            axes = figure.axes[0]
            axes.set_yscale("log")
            wide = values.max() / values.min() > 1000
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=12))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: significant(value)))
            axes.yaxis.set_minor_formatter(NullFormatter())
        _end_label(figure.axes[0], test, significant(test[1][-1]))
    return figure


def sparsity_figure(run: Run) -> Figure | None:
    """Sparsity in per cent, with its target, and the threshold where there is one, against the step."""
    if not run.updates:
        return None
    records = sorted((*run.epochs, *run.updates), key=lambda record: number(record.get("step")) or 0.0)
    sparsity = _series(records, "step", "sparsity", 100.0)
    threshold = _series(run.updates, "step", "threshold")
    figure, (upper, *lower) = _figure(rows=2 if threshold[0].size else 1, height=_TALL)
    upper.plot(*sparsity, color=COLOURS["first"], linewidth=2, drawstyle="steps-post", label="Sparsity")
    target = run.target_sparsity()
    if target is not None:
        upper.axhline(
            100 * target,
            color=COLOURS["second"],
            linewidth=1.4,
            dashes=(5, 3),
            label=f"Target, {percent(target)}",
        )
    upper.set_ylim(0, 100)
    upper.set_ylabel("Sparsity (%)")
    _legend(upper)
    for axes in lower:
        axes.plot(*threshold, color=COLOURS["first"], linewidth=2, marker=_marker(threshold[0]), markersize=3.5)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("Threshold τ")
    _step_axis(figure, run)
    return figure


def turnover_figure(run: Run) -> Figure | None:
    """Connections dropped and grown at each update, and below them the part of the dropped that is regrown."""
    dropped, grown = (np.array([total(record, key) for record in run.updates]) for key in ("dropped", "regrown"))
    steps = np.array([number(record.get("step")) or math.nan for record in run.updates])
    known = np.isfinite(steps) & np.isfinite(dropped) & np.isfinite(grown)
    if not known.any():
        return None
    steps, dropped, grown = (_thin(values[known]) for values in (steps, dropped, grown))
    figure, (upper, lower) = _figure(rows=2, height=_TALL)
    style: dict[str, Any] = {"linewidth": 2, "markersize": 3.5, "marker": _marker(steps)}
    upper.plot(steps, dropped, color=COLOURS["second"], label="Dropped", **style)
    upper.plot(steps, grown, color=COLOURS["first"], label="Regrown", **style)
    upper.fill_between(steps, grown, dropped, color=COLOURS["second"], alpha=0.12, linewidth=0)
    upper.set_ylim(bottom=0)
    upper.set_ylabel("Connections")
    upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _legend(upper)
    moved = dropped > 0
    lower.plot(steps[moved], 100 * grown[moved] / dropped[moved], color=COLOURS["first"], **style)
    lower.set_ylim(bottom=0)
    lower.set_ylabel("Regrown (%)")
    _step_axis(figure, run)
    return figure


def hoyer_figure(layers: Sequence[Record]) -> Figure | None:
    """Hoyer's sparsity of each layer over its active connections: measured, and expected from p."""
    drawn = [layer for layer in layers if number(layer.get("hoyer")) is not None]
    if not drawn:
        return None
    figure, (axes,) = _figure(rows=1, height=_rows_height(len(drawn)))
    rows = np.arange(len(drawn))
    measured, predicted = (_column(drawn, key) for key in ("hoyer", "hoyer_predicted"))
    axes.hlines(rows, measured, predicted, color=COLOURS["muted"], linewidth=1.5)
    axes.plot(measured, rows, "o", color=COLOURS["first"], markersize=7, label="Measured")
    axes.plot(
        predicted,
        rows,
        "D",
        markersize=9,
        markeredgewidth=1.8,
        markeredgecolor=COLOURS["second"],
        markerfacecolor="none",
        label="Predicted",
    )
    axes.set_xlim(0, 1)
    axes.set_xlabel("Hoyer's sparsity (0 equal, 1 one-hot)")
    _layer_axis(axes, [str(layer.get("layer", "")) for layer in drawn])
    _legend(axes)
    return figure


def magnitude_figure(layers: Mapping[str, NDArray[np.float64]]) -> Figure | None:
    """A histogram of |w| on a logarithmic axis for each layer, with its median; each to its own height.

    Args:
        layers: For each layer the magnitudes of its connections, all > 0. Empty layers are left out.
    """
    logs = {name: np.log10(values) for name, values in layers.items() if values.size}
    if not logs:
        return None
    low = min(float(np.quantile(values, 0.005)) for values in logs.values())
    high = max(float(values.max()) for values in logs.values())
    low, high = math.floor(low * 2) / 2, math.ceil(high * 2) / 2
    high = max(high, low + 1)
    edges = np.linspace(low, high, max(24, min(120, round((high - low) * _BINS_PER_DECADE))) + 1)
    figure, (axes,) = _figure(rows=1, height=_rows_height(len(logs)))
    for row, values in enumerate(logs.values()):
        share = np.histogram(values, edges)[0] / values.size
        height = 0.82 * share / max(float(share.max()), 1e-12)
        base = row + 0.4
        axes.stairs(base - height, edges, baseline=base, fill=True, color=COLOURS["first"], alpha=0.3, linewidth=0)
        axes.stairs(base - height, edges, baseline=None, color=COLOURS["first"], linewidth=1.3)
        axes.plot([np.median(values)] * 2, [base, base - 0.82], color=COLOURS["second"], linewidth=1.8)
    axes.plot([], [], color=COLOURS["second"], linewidth=1.8, label="Median")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axes.set_xlabel("Magnitude of a connection, |w|")
    _layer_axis(axes, list(logs))
    _legend(axes)
    return figure


def total(record: Record, key: str) -> float:
    """The connections dropped or grown at an update, over all layers; NaN if the record does not say."""
    found = record.get(key)
    values = list(found.values()) if isinstance(found, Mapping) else [found]
    counts = [number(value) for value in values]
    return math.nan if None in counts else float(sum(value or 0.0 for value in counts))


def short_name(name: str, limit: int = 26) -> str:
    """A layer's name as a label: printable, without its ".weight", cut near its start if it is long."""
    name = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in name)
    name = name.removesuffix(".weight")
    return name if len(name) <= limit else f"{name[:6]}…{name[7 - limit :]}"


def _labels(names: Sequence[str]) -> list[str]:
    """Short names; numbered where the cut made two alike."""
    labels = [short_name(name) for name in names]
    if len(set(labels)) == len(labels):
        return labels
    return [f"{i}: {label}" for i, label in enumerate(labels, start=1)]


def _figure(rows: Literal[1, 2], height: float = _HEIGHT) -> tuple[Figure, Sequence[Axes]]:
    """A figure with its empty axes one below the other, in the report's style."""
    figure = Figure(
        figsize=(_WIDTH, height),
        facecolor=COLOURS["surface"],
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.05)  # type: ignore[union-attr,call-arg]
    all_axes = list(figure.subplots(rows, 1, squeeze=False)[:, 0])
    for axes in all_axes:
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(COLOURS["muted"])
        axes.tick_params(which="both", color=COLOURS["muted"], labelcolor=COLOURS["ink"], labelsize=_TEXT)
        axes.grid(True, color=COLOURS["line"], linewidth=0.8)
        axes.set_axisbelow(True)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(size=_TEXT, color=COLOURS["ink"])
    return figure, all_axes


def _curves(train: _Series, test: _Series, label: str) -> Figure | None:
    if not train[0].size and not test[0].size:
        return None
    figure, (axes,) = _figure(rows=1)
    marker = _marker(max(train[0], test[0], key=len))
    if train[0].size:
        axes.plot(
            *train,
            color=COLOURS["muted"],
            linewidth=1.6,
            dashes=(4, 2),
            marker=marker,
            markersize=2.5,
            label="Training data",
        )
    if test[0].size:
        axes.plot(*test, color=COLOURS["first"], linewidth=2.2, marker=marker, markersize=4, label="Test data")
    axes.set_xlabel("Epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    _legend(axes)
    return figure


def _end_label(axes: Axes, series: _Series, text: str) -> None:
    """The last value of a curve, written beside its end."""
    axes.annotate(
        text,
        (series[0][-1], series[1][-1]),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        color=COLOURS["first"],
        size=_TEXT,
        weight="bold",
        annotation_clip=False,
    )


def _series(records: Sequence[Record], x: str, y: str, scale: float = 1.0) -> _Series:
    """The points of a curve, where both values are known and finite."""
    pairs = [(number(record.get(x)), number(record.get(y))) for record in records]
    found = [(a, scale * b) for a, b in pairs if a is not None and b is not None]
    points = np.array(found, dtype=np.float64).reshape(-1, 2)
    return _thin(points[:, 0]), _thin(points[:, 1])


def _thin(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most `_MAX_POINTS` of the values, evenly spread, with the first and the last."""
    if values.size <= _MAX_POINTS:
        return values
    thinned: NDArray[np.float64] = values[np.linspace(0, values.size - 1, _MAX_POINTS).round().astype(int)]
    return thinned


def _column(layers: Sequence[Record], key: str) -> NDArray[np.float64]:
    values = [number(layer.get(key)) for layer in layers]
    return np.array([math.nan if value is None else value for value in values])


def _rows_height(rows: int) -> float:
    return max(_HEIGHT, 1.1 + 0.42 * rows)


def _layer_axis(axes: Axes, names: Sequence[str]) -> None:
    """One row for each layer, the first on top."""
    axes.set_yticks(range(len(names)), _labels(names))
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)


def _step_axis(figure: Figure, run: Run) -> None:
    """One step axis for both panels, labelled below the lower: that of the whole run in every figure."""
    steps = [number(record.get("step")) or 0.0 for record in (*run.epochs, *run.updates)]
    for axes in figure.axes:
        axes.set_xlim(0, 1.02 * max(1.0, *steps))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for axes in figure.axes[:-1]:
        axes.tick_params(axis="x", labelbottom=False)
    figure.axes[-1].set_xlabel("Optimizer step")
    figure.align_ylabels()


def _marker(values: NDArray[np.float64]) -> str | None:
    """Points are marked while they can be told apart."""
    return "o" if values.size <= 30 else None


def _legend(axes: Axes) -> None:
    """Above the axes, where it hides nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=3,
        frameon=False,
        fontsize=_TEXT,
        labelcolor=COLOURS["ink"],
        borderaxespad=0.2,
        handlelength=2.2,
        columnspacing=1.6,
    )
