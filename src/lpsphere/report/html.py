"""The report of a run: one HTML file that needs nothing but a browser."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from matplotlib.figure import Figure
from numpy.typing import NDArray

from lpsphere.report import formats, plots
from lpsphere.report.run import Record, Run, magnitudes, number, read_run
from lpsphere.report.style import STYLE
from lpsphere.report.svg import inline_svg
from lpsphere.report.tables import layer_table, mapping_table

_MAGNITUDE = "the largest |w| dropped at each update"
_THRESHOLDS = {
    "semi-pruning": "the largest relative magnitude dropped at each update; 0.2 means that connections up to a fifth of"
    " their neuron's mean |w| went",
    "set": _MAGNITUDE,
    "rigl": _MAGNITUDE,
    "gmp": _MAGNITUDE,
    "snip": "the largest saliency |w g| dropped",
}
_TOLERANCE = 0.005  # a sparsity further from its target than half a point is said to have missed it

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run's folder; an older report is replaced in one move, or not at all.

    Args:
        run_dir: The folder of a run, finished or not.

    Returns:
        The path of the report.

    Raises:
        FileNotFoundError: No such folder, or no `history.jsonl` in it.
        ValueError: A file of the run cannot be read as what it is.
    """
    run_dir = Path(run_dir)
    page = render_report(read_run(run_dir))
    target = run_dir / "report.html"
    temporary = run_dir / f".report-{secrets.token_hex(6)}.tmp"
    try:
        with temporary.open("x", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def render_report(run: Run) -> str:
    """The page for a run: HTML with its style and its figures in it, no scripts, nothing loaded."""
    name = formats.plain(run.get("data") or run.folder.resolve().name)
    sections = (_header(run, name), _tiles(run), _learning(run), _topology(run), _layers(run), _details(run))
    return _PAGE.substitute(
        title=escape(f"{name}: training report"), style=STYLE, body="\n".join(part for part in sections if part)
    )


def _header(run: Run, name: str) -> str:
    flag = "" if run.finished else ' <span class="flag">unfinished</span>'
    facts = {
        "Data": name,
        "Model": run.get("model"),
        "Method": run.get("method"),
        "Optimizer": run.get("optimizer"),
        "p": None if run.get("optimizer") in ("sgd", "adamw") else run.get("p"),
        "Target sparsity": formats.percent(run.target_sparsity()),
        "Epochs": formats.plain(run.get("epochs")),
        "Seed": run.get("seed"),
        "Device": run.get("device"),
    }
    shown = {key: formats.plain(value) for key, value in facts.items()}
    items = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>"
        for key, value in shown.items()
        if value != formats.DASH
    )
    command = run.get("command")
    method = run.get("method")
    title = f"{name}, {formats.plain(method)}" if method else name
    parts = [
        '<header><p class="over">lpsphere training report</p>',
        f'<h1>{escape(title)}{flag}</h1><dl class="facts">{items}</dl>',
        f"<pre><code>{escape(formats.plain(command))}</code></pre>" if command else "",
        ""
        if run.finished
        else '<p class="note">This run has not written its summary: it is still going or was interrupted. What'
        " follows is its state at the last epoch on record.</p>",
        "</header>",
    ]
    return "\n".join(part for part in parts if part)


def _tiles(run: Run) -> str:
    """The key figures: how good, how sparse, how small, how long."""
    tiles = [_score_tile(run), _sparsity_tile(run), _connections_tile(run)]
    epochs = formats.count(len(run.epochs))
    if run.finished:
        device = formats.plain(run.get("device"))
        note = f"{formats.count(run.get('epochs') or len(run.epochs))} epochs"
        note += "" if device == formats.DASH else f" on {escape(device)}"
        cost, dense = number(run.get("training_flops")), number(run.get("training_flops_dense"))
        if cost is not None and dense and cost < dense:
            note += f"; the connections make up {formats.percent(cost / dense, 0)} of dense training's FLOPs"
        tiles.append(_tile("Training time", formats.duration(run.get("seconds")), note))
    else:
        planned = formats.count(run.config.get("epochs"))
        tiles.append(_tile("Epochs done", epochs, "" if planned == formats.DASH else f"of {planned} planned"))
    return f'<section class="tiles" aria-label="Key figures">{"".join(tiles)}</section>'


def _score_tile(run: Run) -> str:
    last = run.epochs[-1]
    summary = run.summary or {}
    name, show = ("r2", formats.decimal) if run.regression else ("accuracy", formats.percent)
    title = "Test R²" if run.regression else "Test accuracy"
    notes = []
    loss = formats.significant(summary.get("test_loss", last.get("test_loss")))
    if loss != formats.DASH:
        notes.append(f"test loss {loss}")
    train = show(last.get(f"train_{name}"))
    if train != formats.DASH:
        notes.append(f"{train} on training data")
    return _tile(title, show(summary.get(f"test_{name}", last.get(f"test_{name}"))), ", ".join(notes))


def _sparsity_tile(run: Run) -> str:
    sparsity = _sparsity(run)
    target = run.target_sparsity()
    note = ""
    if sparsity is not None and target is not None:
        note = f"target {formats.percent(target)}"
        if abs(sparsity - target) <= _TOLERANCE:
            note += ", reached"
        elif run.finished:
            note += f', <span class="off">missed by {formats.points(sparsity - target)}</span>'
    return _tile("Sparsity", formats.percent(sparsity), note)


def _connections_tile(run: Run) -> str:
    selected, parameters = formats.count(run.get("selected_weights")), formats.count(run.get("parameters"))
    notes = []
    if selected != formats.DASH:
        notes.append(f"of {selected} selected weights")
    if parameters != formats.DASH:
        notes.append(f"{parameters} parameters in all")
    if not run.finished:
        notes.append("counted when the run is finished")
    return _tile("Connections left", formats.count(run.get("connections")), "; ".join(notes))


def _tile(title: str, value: str, note: str) -> str:
    """`note` may hold markup: it is made of formatted numbers and escaped text."""
    return f'<div class="tile"><h3>{escape(title)}</h3><strong>{escape(value)}</strong><small>{note}</small></div>'


def _learning(run: Run) -> str:
    name, title, show = ("r2", "R²", formats.decimal)
    if not run.regression:
        name, title, show = ("accuracy", "Accuracy", formats.percent)
    first, last = (show(run.epochs[i].get(f"test_{name}")) for i in (0, -1))
    losses = [formats.significant(run.epochs[i].get("test_loss")) for i in (0, -1)]
    reading = (
        "1 is a perfect fit, 0 no better than the mean."
        if run.regression
        else "The share of examples classified right."
    )
    figures = [
        _figure(
            plots.score_figure(run),
            "score",
            title,
            f"{title} by epoch: on test data it goes from {first} to {last}.",
            f"{reading} A wide gap between the two curves means overfitting; the label is the last test value.",
        ),
        _figure(
            plots.loss_figure(run),
            "loss",
            "Loss",
            f"Loss by epoch: on test data it goes from {losses[0]} to {losses[1]}.",
            "What training minimises, averaged over the examples; lower is better. Test loss that rises while"
            " training loss falls means overfitting.",
        ),
    ]
    return _section("Learning", figures)


def _topology(run: Run) -> str:
    sparsity = formats.percent(_sparsity(run))
    if not run.updates:
        return (
            "<section><h2>Connections over time</h2><p>No update of the connections is on record: the network kept"
            f" the connections it began with (sparsity {sparsity}).</p></section>"
        )
    dropped, grown = (
        formats.count(sum(plots.total(record, key) for record in run.updates)) for key in ("dropped", "regrown")
    )
    threshold = any(number(record.get("threshold")) is not None for record in run.updates)
    below = f" Below: {_THRESHOLDS.get(run.get('method'), 'the largest score dropped at each update')}."
    updates = "1 update" if len(run.updates) == 1 else f"{formats.count(len(run.updates))} updates"
    figures = [
        _figure(
            plots.sparsity_figure(run),
            "sparsity",
            "Sparsity and threshold" if threshold else "Sparsity",
            f"Sparsity by optimizer step, up to {sparsity}{', and the threshold at each update' if threshold else ''}.",
            f"The share of the selected weights that are not connections.{below if threshold else ''}",
        ),
        _figure(
            plots.turnover_figure(run),
            "turnover",
            "Dropped and regrown",
            f"Connections dropped ({dropped} in all) and regrown ({grown}) at each update.",
            f"Over {updates} {dropped} connections were dropped and {grown} regrown;"
            " the shaded gap is what the network lost. Below: how many were regrown for every hundred dropped.",
        ),
    ]
    return _section("Connections over time", figures)


def _layers(run: Run) -> str:
    weights = dict(magnitudes(run))
    names = [str(layer.get("layer")) for layer in run.layers] or list(weights)
    sizes = {str(layer.get("layer")): number(layer.get("connections")) or 0 for layer in run.layers}
    largest = set(sorted(names, key=lambda name: -sizes.get(name, 0))[: plots.MAX_LAYERS])
    drawn = {name: values for name, values in weights.items() if name in largest}
    layers = [layer for layer in run.layers if str(layer.get("layer")) in largest]
    figures = [
        _figure(
            plots.hoyer_figure(layers),
            "hoyer",
            "How unequal the weights are",
            _hoyer_words(layers),
            "Hoyer's sparsity over the active connections of each neuron, averaged over the layer: 0 if all have equal"
            " magnitude, 1 if one carries all. Predicted: expected from p and the number of connections under the"
            " gamma hypothesis; layers that are not on a sphere have none.",
        ),
        _figure(
            plots.magnitude_figure(drawn),
            "magnitude",
            "Magnitudes of the connections",
            f"Histograms of the magnitude of the weights, on a logarithmic axis, for {len(drawn)} layers.",
            "Each row is one layer's histogram of non-zero |w|, to its own height, on a logarithmic axis. For p near"
            f" 1 it spreads over many decades; up to 0.5 % of a layer may lie left of it.{_missing(names, weights)}",
        ),
    ]
    if len(names) > plots.MAX_LAYERS:
        figures.append(
            f'<p class="note">The figures show the {plots.MAX_LAYERS} layers with most connections of {len(names)}.</p>'
        )
    return _section("Layers", figures, layer_table(run.layers))


def _hoyer_words(layers: Sequence[Record]) -> str:
    return "Hoyer's sparsity of each layer: " + "; ".join(
        f"{layer.get('layer')} measured {formats.decimal(layer.get('hoyer'), 2)},"
        f" predicted {formats.decimal(layer.get('hoyer_predicted'), 2)}"
        for layer in layers
    )


def _missing(names: Sequence[str], weights: Mapping[str, NDArray[Any]]) -> str:
    """A sentence on the layers whose weights could not be drawn."""
    absent = [name for name in names if name not in weights or not weights[name].size]
    if not absent:
        return ""
    return f" Without non-zero weights in model.safetensors: {', '.join(absent)}."


def _details(run: Run) -> str:
    versions = run.get("versions")
    parts = [
        mapping_table("Configuration", run.config),
        mapping_table("Versions", versions if isinstance(versions, Mapping) else {}),
    ]
    version = versions.get("lpsphere") if isinstance(versions, Mapping) else None
    made = f"Made by lpsphere {escape(formats.plain(version))}" if version else "Made by lpsphere"
    return (
        f"<section><h2>Settings</h2>{''.join(parts)}</section>\n<footer>{made} from the files in this folder.</footer>"
    )


def _sparsity(run: Run) -> float | None:
    """As the summary says, else as the last record of the history says."""
    records = sorted((*run.epochs, *run.updates), key=lambda record: number(record.get("step")) or 0.0)
    found = [number(source.get("sparsity")) for source in (run.summary or {}, *reversed(records))]
    return next((value for value in found if value is not None), None)


def _figure(figure: Figure | None, name: str, title: str, label: str, caption: str) -> str:
    """A figure with its title and what it says; nothing if there is no figure."""
    if figure is None:
        return ""
    return (
        f"<figure><h3>{escape(title)}</h3>{inline_svg(figure, label, name)}"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _section(title: str, figures: Sequence[str], before: str = "") -> str:
    shown = "\n".join(part for part in figures if part)
    if not shown and not before:
        return ""
    grid = f'<div class="pair">{shown}</div>' if shown else ""
    return f"<section><h2>{escape(title)}</h2>{before}{grid}</section>"
