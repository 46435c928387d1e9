"""A character-level GPT: dense, and with a tenth of its connections, and what p and the radius do.

Runs examples/char_gpt.py, once for each setting; what was computed with the same options stays. Writes a JSON file of
all runs, and beside it a table (.md) and their loss curves (.png).

    OMP_NUM_THREADS=1 python benchmarks/char_gpt.py --out results/char-gpt.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from reporting import command_line, save

from lpsphere.experiments.plots import save_figure
from lpsphere.text import markdown

EXAMPLE = Path(__file__).parents[1] / "examples" / "char_gpt.py"
LONG, SHORT = ["--steps", "1000"], ["--steps", "300", "--report", "50"]
RUNS: dict[str, list[str]] = {
    "dense, AdamW": ["--method", "dense", *LONG],
    "90 %, RigL, AdamW": ["--method", "rigl", *LONG],
    "90 %, semi-pruning, AdamW": ["--method", "semi-pruning", "--optimizer", "adamw", *LONG],
    "90 %, semi-pruning, spheres of p = 1.2": ["--method", "semi-pruning", *LONG],
    **{f"p = {p}": ["--method", "semi-pruning", "--p", p, *SHORT] for p in ("1.1", "1.2", "1.35", "1.5", "2")},
    "p = 1.2, radius 1": ["--method", "semi-pruning", "--radius", "1", *SHORT],
    "RigL, AdamW": ["--method", "rigl", *SHORT],
    "RigL, AdamW, three times the rate": ["--method", "rigl", "--lr", "0.009", *SHORT],
}
"""The first four are compared; the others, shorter and all at 90 %, show what p and the radius do."""


def run(words: Sequence[str]) -> dict[str, Any]:
    """What the example says of one training; its progress is printed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.json"
        subprocess.run([sys.executable, str(EXAMPLE), *words, "--out", str(out)], check=True)
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def readable(runs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """A line a run."""
    return [
        {
            "run": name,
            "steps": f"{found['settings']['steps']:,}",
            "sparsity": f"{found['sparsity']:.3f}",
            "training loss": f"{found['curve'][-1]['train']:.3f}",
            "validation loss": f"{found['validation_loss']:.3f}",
        }
        for name, found in runs.items()
    ]


def draw(runs: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Validation loss step by step: the long runs, and the short ones."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    steps = {name: found["settings"]["steps"] for name, found in runs.items()}
    panels: Sequence[Axes] = figure.subplots(1, 2)
    titles = ("Dense and with a tenth of the connections", "What p and the radius do, at 90 %")
    for axes, title, length in zip(panels, titles, (max(steps.values()), min(steps.values())), strict=True):
        for name in (name for name in runs if steps[name] == length):
            curve = runs[name]["curve"]
            style = "--" if "AdamW" in name else "-"
            axes.plot([e["step"] for e in curve], [e["validation"] for e in curve], style, label=name)
        axes.set(xlabel="Step", ylabel="Validation loss (nats a character)", title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def main() -> None:
    """Compute what is missing, and report."""
    parser = command_line(__doc__)
    options = parser.parse_args()
    kept = json.loads(options.out.read_text(encoding="utf-8"))["runs"] if options.out and options.out.exists() else {}
    found: dict[str, Any] = {}
    for name, words in RUNS.items():
        if name in kept and kept[name]["options"] == words:
            found[name] = kept[name]
            continue
        print(f"== {name}", flush=True)
        found[name] = {"options": words, **run(words)}
        save(options.out, runs=found, table=readable(found))
    if options.out is not None:
        save_figure(options.out.with_suffix(".png"), draw(found))
    print(markdown(readable(found)))


if __name__ == "__main__":
    main()
