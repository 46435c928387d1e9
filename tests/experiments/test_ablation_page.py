import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lpsphere.experiments.ablation_page import render_ablation_page, write_ablation_page
from lpsphere.experiments.table import parse_cells

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tried(tmp_path, wine_table):
    """Keep an ablation, write the page, read the last heading, what is told below it and the table."""

    def write(rows, method="semi-pruning", sparsity=0.8, **then):
        config = replace(wine_table.config(method, sparsity), **then)
        content = {"table": rows, "settings": config.to_dict()}
        (tmp_path / f"wine-{method}-{sparsity:g}.json").write_text(json.dumps(content))
        text = write_ablation_page(tmp_path / "docs" / "ablations.md", tmp_path).read_text()
        heading, told, table = text.split("\n### ")[-1].split("\n\n")
        return heading, told, table.splitlines()[2:]

    return write


CHANGE = {
    "change": "lr=0.2",
    "validation_accuracy": 0.95,
    "difference": 0.01,
    "sd": 0.005,
    "p_value": 0.04,
    "splits": 4,
    "diverged": 0,
}


def test_what_was_tried_about_a_recipe_is_told_with_its_commands(tried, tmp_path):
    more = {**CHANGE, "change": "p=1.5", "difference": -0.01, "splits": 1, "p_value": None}
    heading, told, rows = tried([CHANGE, more], epochs=7)
    assert heading == "Ours at 0.8, 7 epochs"
    command = "lpsphere reproduce ablation --cells wine:0.8 --epochs 7"
    assert told == f"```\n{command} --splits 1 --change p=1.5\n{command} --splits 4 --change lr=0.2\n```"
    assert rows == ["| lr=0.2 | 95.00 | +1.00 ± 0.50 (p = 0.04) | 4 |", "| p=1.5 | 95.00 | -1.00 | 1 |"]
    text = (tmp_path / "docs" / "ablations.md").read_text()
    assert "On parts of the training rows of the splits (a row that one of them tests is a training row of" in text


def test_the_command_of_an_ablation_names_the_method_and_no_usual_changes(tried):
    rows = [{**CHANGE, "change": change} for change in ("the recipe", "hidden=[8, 8]", "lr=1")]
    heading, told, _ = tried(rows, "dense", 0.0)
    assert heading == "Dense SGD"
    command = "lpsphere reproduce ablation --cells wine --methods dense --splits 4"
    assert told == f"```\n{command} --change 'hidden=[8, 8]' --change lr=1\n```"
    _, told, _ = tried([{**CHANGE, "change": change} for change in ("the recipe", "p = 2", "lr=1", "p = 3")])
    command = "lpsphere reproduce ablation --cells wine:0.8 --splits 4"
    assert told == f"```\n{command}\n{command} --change lr=1\n```"


def test_what_was_tried_about_an_earlier_recipe_is_told_with_what_that_was(tried):
    assert tried([CHANGE], p=1.5, threads=2)[1] == "The recipe had p 1.5 (now 1.2)."


def test_runs_that_diverged_are_told_beside_the_accuracy_of_the_others(tried):
    assert tried([{**CHANGE, "diverged": 2}])[2] == ["| lr=0.2 | 95.00 (2 diverged) | +1.00 ± 0.50 (p = 0.04) | 4 |"]
    none = dict.fromkeys(("validation_accuracy", "difference", "sd", "p_value"))
    assert tried([{**CHANGE, **none, "diverged": 4}])[2] == ["| lr=0.2 | – (4 diverged) | – | 4 |"]


def test_where_nothing_was_tried_yet_there_is_no_section(wine_table, tmp_path):
    content = {"table": [], "settings": wine_table.config("semi-pruning", 0.8).to_dict()}
    (tmp_path / "wine-semi-pruning-0.8.json").write_text(json.dumps(content))
    assert "\n## " not in render_ablation_page(tmp_path)


def test_the_page_is_that_of_the_results():
    text = (ROOT / "docs" / "ablations.md").read_text(encoding="utf-8")
    assert render_ablation_page(ROOT / "results" / "ablation") == text, "lpsphere reproduce page writes it anew"
    assert all(parse_cells(cells) for cells in re.findall(r"--cells (\S+)", text))
