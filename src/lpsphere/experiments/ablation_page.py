"""The page of what was tried about the recipes: docs/ablations.md from the results of ablations.

Reads those; writes that page alone.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

from lpsphere.experiments.ablation import RECIPE
from lpsphere.experiments.recipe_words import DENSE, NOTHING, OURS, TITLES, Record, chance, place, validation
from lpsphere.experiments.recipes import DATA, Recipe, load_recipe
from lpsphere.experiments.table import Cell
from lpsphere.text import markdown
from lpsphere.training import TrainConfig
from lpsphere.training.config import changes
from lpsphere.training.files import replace_text

__all__ = ["render_ablation_page", "write_ablation_page"]

_ASSIGNMENT = re.compile(r"\w+=")
"""How a change begins that was given by hand; the usual ones have names."""

_HEAD = """# What was tried

Changes of the recipes of the [benchmark table](results.md), helpful or not: accuracy in percent, and its difference
from the recipe's on the same splits, mean ± standard deviation, with p of a paired t-test that allows for the overlap
of training rows. They are trained and scored on parts of the training rows; the test rows are looked at by none. Where
the recipe is another by now, it is said what it had. Runs that diverged are counted, and left out of the means. *Ours*
is LpSGD with semi-pruning.

`lpsphere reproduce ablation` trains what such a table needs, and goes on where it was stopped; `lpsphere reproduce
page` writes this page.
"""


def write_ablation_page(path: Path, ablations: Path) -> Path:
    """Write the page; without new results it stays the same to the byte.

    Args:
        path: The page.
        ablations: Folder of the ablations.

    Returns:
        The path of the page.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, render_ablation_page(ablations))
    return path


def render_ablation_page(ablations: Path) -> str:
    """The page as Markdown; see `write_ablation_page`."""
    sections = (_section(load_recipe(data), ablations) for data in DATA)
    return "\n".join([_HEAD, *filter(None, sections)])


def _section(recipe: Recipe, ablations: Path) -> str:
    """What was tried on a data set; "" if nothing was."""
    paths = sorted(ablations.glob(f"{recipe.data}-*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    parts = [_ablation(recipe, record) for record in records if record["table"]]
    return "\n".join([f"## {TITLES[recipe.data]}\n", f"On {validation(recipe)}.\n", *parts]) if parts else ""


def _ablation(recipe: Recipe, record: Record) -> str:
    method, epochs = record["settings"]["method"], record["settings"]["epochs"]
    sparsity = 0.0 if method == DENSE else record["settings"]["sparsity"]
    now = recipe.config(method, sparsity)
    then = changes(TrainConfig.from_dict(record["settings"]), replace(now, epochs=epochs))
    origin = f"The recipe had {then}." if then else _commands(recipe, method, sparsity, record)
    name = place(method, sparsity) + (f", {epochs} epochs" if epochs != now.epochs else "")
    return f"### {name[0].upper()}{name[1:]}\n\n{origin}\n\n{markdown([_change(row) for row in record['table']])}"


def _change(row: Record) -> dict[str, str]:
    spread = "" if row["sd"] is None or row["splits"] == 1 else f" ± {100 * row['sd']:.2f}"
    ended = NOTHING if row["validation_accuracy"] is None else f"{100 * row['validation_accuracy']:.2f}"
    difference = row["difference"]
    return {
        "change": row["change"],
        "accuracy": f"{ended} ({row['diverged']} diverged)" if row["diverged"] else ended,
        "difference": NOTHING if difference is None else f"{100 * difference:+.2f}{spread}{chance(row['p_value'])}",
        "splits": str(row["splits"]),
    }


def _commands(recipe: Recipe, method: str, sparsity: float, record: Record) -> str:
    """The commands that train what a table of changes shows: one for each number of splits."""
    words = ["lpsphere", "reproduce", "ablation", "--cells", str(Cell(recipe.data, sparsity))]
    words += [] if method == OURS else ["--methods", method]
    if record["settings"]["epochs"] != recipe.config(method, sparsity).epochs:
        words += ["--epochs", str(record["settings"]["epochs"])]
    given: dict[tuple[int, bool], list[str]] = {}
    for row in record["table"]:
        if row["change"] != RECIPE:
            by_hand = bool(_ASSIGNMENT.match(row["change"]))
            given.setdefault((row["splits"], by_hand), []).extend(["--change", row["change"]] if by_hand else [])
    lines = [shlex.join([*words, "--splits", str(splits), *given[splits, hand]]) for splits, hand in sorted(given)]
    return "\n".join(["```", *lines, "```"])
