"""The tables of the report: its layers, its configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from lpsphere.report import formats
from lpsphere.report.run import Record, number

_COLUMNS: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("neurons", formats.count),
    ("fan_in", formats.count),
    ("p", formats.significant),
    ("density", formats.percent),
    ("connections", formats.count),
    ("hoyer", formats.decimal),
    ("hoyer_predicted", formats.decimal),
    ("hoyer_full", formats.decimal),
    ("sphere_error", formats.scientific),
    ("dead", formats.count),
    ("single", formats.count),
)

_HEAD = """<thead>
<tr><th scope="col" rowspan="2">Layer</th><th scope="col" rowspan="2">Neurons</th>
<th scope="col" rowspan="2">Fan-in</th><th scope="col" rowspan="2"><i>p</i></th>
<th scope="col" rowspan="2">Density</th><th scope="col" rowspan="2">Connections</th>
<th scope="colgroup" colspan="3" class="group">Hoyer's sparsity</th>
<th scope="col" rowspan="2">| ‖w‖<sub>p</sub> − r |</th>
<th scope="colgroup" colspan="2" class="group">Neurons with</th></tr>
<tr class="sub"><th scope="col">measured</th><th scope="col">predicted</th><th scope="col">full row</th>
<th scope="col">none</th><th scope="col">only one</th></tr>
</thead>"""

_NOTE = (
    '<p class="note">Density: the share of a layer\'s weights that are connections. Measured and predicted Hoyer:'
    " over the active connections; full row: over all weights, zeros included. | ‖w‖<sub>p</sub> − r |: the largest"
    " distance of a neuron from its sphere of radius r. The last two columns count the neurons with no connection"
    " (dead) and with a single one, whose weight cannot change. A dash: not known, or the layer is not on a sphere.</p>"
)


def layer_table(layers: Sequence[Record]) -> str:
    """One row a layer, and their sums; empty without layers."""
    if not layers:
        return ""
    rows = "\n".join(_row(layer) for layer in layers)
    foot = f"\n<tfoot>{_row(_sums(layers), missing='')}</tfoot>" if len(layers) > 1 else ""
    return (
        '<div class="card" tabindex="0" role="region" aria-label="Layers">'
        f'<table class="layers">{_HEAD}\n<tbody>\n{rows}\n</tbody>{foot}</table></div>{_NOTE}'
    )


def mapping_table(title: str, mapping: Record) -> str:
    """Names and values, folded away until they are asked for; empty without any."""
    if not mapping:
        return ""
    rows = "\n".join(
        f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(formats.plain(value))}</td></tr>'
        for key, value in mapping.items()
    )
    return (
        f"<details><summary>{escape(title)}</summary>"
        f'<div class="card"><table class="names"><tbody>\n{rows}\n</tbody></table></div></details>'
    )


def _row(layer: Record, missing: str = formats.DASH) -> str:
    name = escape(formats.plain(layer.get("layer")))
    shown = [show(layer.get(key)) for key, show in _COLUMNS]
    cells = "".join(f"<td>{escape(missing if value == formats.DASH else value)}</td>" for value in shown)
    shown_name = name.removesuffix(".weight").replace(".", ".<wbr>")  # where a narrow screen may break it
    return f'<tr><th scope="row" title="{name}">{shown_name}</th>{cells}</tr>'


def _sums(layers: Sequence[Record]) -> Record:
    """What can be added up; a column with a gap has no sum."""
    sums: dict[str, Any] = {"layer": "All of these"}
    for key in ("neurons", "connections", "dead", "single"):
        values = [number(layer.get(key)) for layer in layers]
        sums[key] = None if None in values else sum(value or 0.0 for value in values)
    sizes = [(number(layer.get("neurons")), number(layer.get("fan_in"))) for layer in layers]
    weights = sum((a or 0.0) * (b or 0.0) for a, b in sizes)
    if sums["connections"] is not None and weights and all(a and b for a, b in sizes):
        sums["density"] = sums["connections"] / weights
    return sums
