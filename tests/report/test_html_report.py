"""The page that `write_report` makes of a run's folder."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from run_folders import COMMAND, CONFIG, SHAPES, history, layers, summary, write_run

from lpsphere.report import write_report
from lpsphere.report.plots import MAX_LAYERS

VOID = {"meta", "link", "img", "br", "wbr", "hr", "input"}


class Page(HTMLParser):
    """What a browser would find: tags, attributes, text; checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.open, self.tags, self.attributes, self.texts = html, [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data.replace("\N{NO-BREAK SPACE}", " "))

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def values(self, wanted: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == wanted]

    def figures(self) -> list[str]:
        return [value for tag, name, value in self.attributes if tag == "svg" and name == "aria-label"]


def short_run(folder: Path) -> Path:
    """A run with little to draw."""
    return write_run(folder, records=history(updates=False, epochs=2), finished=False)


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return read(write_report(write_run(tmp_path_factory.mktemp("runs") / "digits")))


def test_the_key_figures_come_first(page):
    top = page.text[: page.text.index("Learning")]
    for figure in ("98.61 %", "90.06 %", "target 90 %, reached", "8,141", "of 81,920 selected weights", "9.1 s"):
        assert figure in top


def test_what_was_run_is_said(page):
    for fact in (COMMAND, "digits, semi-pruning", "Device cpu", "Seed 0", "p 1.15", "Epochs 20"):
        assert fact in page.text


def test_there_are_six_figures_in_words_too(page):
    figures = page.figures()
    assert len(figures) == 6
    assert page.tags.count("figcaption") == 6
    assert figures[0] == "Accuracy by epoch: on test data it goes from 75.52 % to 98.61 %.".replace(" %", "\xa0%")
    assert "layer1.weight measured 0.71, predicted 0.66" in figures[4]
    assert all(value == "img" for tag, name, value in page.attributes if (tag, name) == ("svg", "role"))


def test_the_layers_are_tabulated(page):
    assert "layer1 256 64 1.15 18 % 2,949 0.710 0.660 0.900 1.2e-7 0 3" in page.text
    assert "layer3 10 256 – 100 % 2,560 0.310 – 0.800 – 0 1" in page.text
    assert "All of these 522 12.67 % 10,701 0 6" in page.text


def test_configuration_and_versions_are_folded_away(page):
    assert page.tags.count("details") == 2
    assert "batch_size 64" in page.text
    assert "label_column –" in page.text
    assert "torch 2.13.0" in page.text


def test_nothing_is_loaded_from_outside(page):
    assert not re.search(r"https?:|@import|<script|<link|<iframe", page.html)
    assert page.values("src") == []
    assert all(value.startswith("#") for name in ("href", "xlink:href") for value in page.values(name))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page.html))


def test_ids_are_unique_and_every_reference_has_its_target(page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    referred = re.findall(r"url\(#([^)]*)\)", page.html) + [value[1:] for value in page.values("href")]
    assert referred
    assert set(referred) <= set(ids)


def test_figures_take_their_colours_from_the_page(page):
    figures = "".join(re.findall(r"<svg.*?</svg>", page.html, flags=re.DOTALL))
    assert "var(--first)" in figures
    assert not re.search(r"#[0-9a-f]{6}\b", figures)
    assert "prefers-color-scheme:dark" in page.html


def test_a_page_is_small_and_the_same_every_time(page, tmp_path):
    again = write_report(write_run(tmp_path / "digits"))
    assert again.read_text(encoding="utf-8") == page.html
    assert again.stat().st_size < 300_000


def test_hostile_names_stay_text(tmp_path):
    evil = "</svg></style><script>alert(1)</script><img src=x onerror=alert(1)> $\\frac{ &amp; \"'"
    rows = [{**row, "layer": f"{i}{evil}"} for i, row in enumerate(layers())]
    result = summary(data=evil, method=evil, command=evil, device=evil, versions={evil: evil}, layers=rows)
    tensors = {row["layer"]: np.ones((4, 4), dtype=np.float32) for row in rows}
    folder = write_run(tmp_path / "run", config={evil: evil, "p": evil}, result=result, tensors=tensors)
    page = read(write_report(folder))
    assert not {"script", "img", "iframe", "object"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") >= 8
    assert len(page.figures()) == 6


def test_an_unfinished_run_is_reported_as_such(tmp_path):
    folder = write_run(tmp_path / "run", records=history(epochs=7), finished=False)
    page = read(write_report(folder))
    assert "unfinished" in page.text
    assert "Epochs done 7 of 20 planned" in page.text
    assert len(page.figures()) == 4
    assert "missed" not in page.text


def test_a_line_cut_short_by_the_interruption_is_no_obstacle(tmp_path):
    folder = write_run(tmp_path / "run", finished=False, config=None)
    with (folder / "history.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "epoch", "epo')
    assert "Epochs done 20" in read(write_report(folder)).text


def test_a_dense_run_has_no_figures_of_updates(tmp_path):
    config = {key: value for key, value in CONFIG.items() if key not in ("sparsity", "p")}
    result = summary(method="dense", sparsity=0.0, target_sparsity=None, connections=81920)
    folder = write_run(tmp_path / "run", config=config, records=history(updates=False), result=result)
    page = read(write_report(folder))
    assert "the connections it began with (sparsity 0 %)" in page.text
    assert len(page.figures()) == 4
    assert "target 90 %" not in page.text


@pytest.mark.parametrize(
    ("method", "optimizer", "threshold"),
    [
        ("semi-pruning", "lpsgd", "the largest relative magnitude dropped at each update; 0.2 means"),
        ("rigl", "sgd", "the largest |w| dropped at each update."),
        ("snip", "sgd", "the largest saliency |w g| dropped."),
    ],
)
def test_the_threshold_is_explained_for_each_method_and_p_is_shown_only_on_spheres(
    tmp_path, method, optimizer, threshold
):
    result = summary(method=method, optimizer=optimizer, training_flops=3e9, training_flops_dense=2e10)
    page = read(write_report(write_run(tmp_path / "run", result=result)))
    assert f"Below: {threshold}" in page.text
    assert f"Optimizer {'lpsgd p 1.15' if optimizer == 'lpsgd' else 'sgd'} Target" in page.text
    assert "the connections make up 15 % of dense training's FLOPs" in page.text


def test_a_regression_is_scored_by_r_squared(tmp_path):
    result = summary(task="regression", test_r2=0.87314)
    del result["test_accuracy"]
    page = read(write_report(write_run(tmp_path / "run", records=history(regression=True), result=result)))
    assert "Test R² 0.873" in page.text
    assert "ccuracy" not in page.text
    assert page.figures()[0].startswith("R² by epoch")


def test_a_missed_target_is_said(tmp_path):
    page = read(
        write_report(
            write_run(tmp_path / "run", records=history(updates=False), result=summary(sparsity=0.853, layers=[]))
        )
    )
    assert "target 90 %, missed by 4.7 points" in page.text


def test_missing_keys_become_dashes(tmp_path):
    result = {"layers": [{"layer": "layer1.weight", "hoyer": None}, {}]}
    records = [{"kind": "epoch"}, {"kind": "epoch", "train_loss": float("nan")}]
    page = read(write_report(write_run(tmp_path / "run", config={}, records=records, result=result)))
    assert "Test accuracy – Sparsity – Connections left – Training time –" in page.text
    assert "layer1 " + " ".join("–" * 11) in page.text


def test_updates_without_a_threshold_leave_no_empty_panel(tmp_path):
    records = [{key: value for key, value in record.items() if key != "threshold"} for record in history()]
    page = read(write_report(write_run(tmp_path / "run", records=records)))
    assert "Threshold" not in page.text
    assert "Sparsity" in page.text


def test_a_network_of_many_layers_keeps_the_page_small(tmp_path):
    rows = [{**layers()[0], "layer": f"blocks.{i}.attention.weight", "connections": 9000 - i} for i in range(60)]
    rng = np.random.default_rng(0)
    tensors = {row["layer"]: rng.standard_normal(SHAPES["layer1.weight"]).astype(np.float32) for row in rows}
    path = write_report(write_run(tmp_path / "run", result=summary(layers=rows), tensors=tensors))
    assert path.stat().st_size < 1_000_000
    assert f"The figures show the {MAX_LAYERS} layers with most connections of 60" in read(path).text


def test_a_report_replaces_the_older_one_and_leaves_nothing_else(tmp_path):
    folder = short_run(tmp_path / "run")
    before = {path.name for path in folder.iterdir()}
    (folder / "report.html").write_text("old")
    path = write_report(folder)
    assert path == folder / "report.html"
    assert {path.name for path in folder.iterdir()} == before | {"report.html"}
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_failure_to_write_keeps_the_older_report(tmp_path, monkeypatch):
    folder = short_run(tmp_path / "run")
    (folder / "report.html").write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(folder)
    assert (folder / "report.html").read_text() == "old"
    assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]


def test_matplotlib_is_left_as_it_was(tmp_path):
    before = dict(matplotlib.rcParams)
    write_report(short_run(tmp_path / "run"))
    assert dict(matplotlib.rcParams) == before
    assert Gcf.get_all_fig_managers() == []
