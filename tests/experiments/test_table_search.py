import json
import time
from dataclasses import replace
from statistics import fmean

import pytest
import torch
import yaml

from lpsphere.data import load
from lpsphere.experiments import runs as running
from lpsphere.experiments import table_search
from lpsphere.experiments.recipes import load_recipe
from lpsphere.experiments.table import Cell
from lpsphere.experiments.table_search import FINAL, Span, search_cell, search_path, spaces
from lpsphere.theory import p_for_training
from lpsphere.training import TrainConfig

MACHINE = {"device": "cpu", "threads": 1}
CELL = Cell("wine", 0.8)


def search(folder, method="semi-pruning", cell=CELL, trials=3, splits=2, **options):
    options = {"tell": lambda line: None, "machine": MACHINE, **options}
    return search_cell(cell, method, folder, trials=trials, splits=splits, **options)


def content(folder, method="semi-pruning", cell=CELL):
    return json.loads(search_path(folder, cell, method).read_text())


def test_a_search_trains_all_trials_and_gives_the_best_as_lines_for_the_recipe(wine_table, tmp_path):
    lines = search(tmp_path)
    found = content(tmp_path)
    assert search_path(tmp_path, CELL, "semi-pruning").name == "wine-semi-pruning-0.8.json"
    assert len(found["runs"]) == 3 * 2
    names = list(spaces(wine_table.config("semi-pruning", 0.8)))
    scores = {}
    for run in found["runs"]:
        scores.setdefault(tuple(run[name] for name in names), []).append(run["accuracy"])
    means = {values: sum(accuracies) / len(accuracies) for values, accuracies in scores.items()}
    (row,) = found["table"]
    assert (row["trials"], row["splits"]) == (3, 2)
    assert row["validation_accuracy"] == max(means.values()) == means[tuple(row[name] for name in names)]
    best = yaml.safe_load(lines)["methods"]["semi-pruning"]["0.8"]
    assert best == {name: row[name] for name in names}
    assert TrainConfig.from_dict(best)


def test_finalists_are_scored_on_more_splits_and_the_best_of_them_there_wins(wine_table, tmp_path):
    search(tmp_path, trials=4)
    before = content(tmp_path)
    names = list(spaces(wine_table.config("semi-pruning", 0.8)))
    told = []
    lines = search(tmp_path, trials=4, finalists=2, tell=told.append)
    found = content(tmp_path)
    assert len(found["runs"]) == len(before["runs"]) + 2 * (FINAL - 1) * 2 == len(before["runs"]) + len(told)
    scores = {}
    for run in found["runs"]:
        scores.setdefault(tuple(run[name] for name in names), []).append(run["accuracy"])
    finals = {values: fmean(accuracies) for values, accuracies in scores.items() if len(accuracies) == FINAL * 2}
    assert len(finals) == 2
    others = [fmean(accuracies) for accuracies in scores.values() if len(accuracies) == 2]
    assert max(others) <= min(fmean(scores[values][:2]) for values in finals)
    (row,) = found["table"]
    assert (row["finalists"], row["final_splits"]) == (2, FINAL * 2)
    assert row["validation_accuracy"] == max(finals.values()) == finals[tuple(row[name] for name in names)]
    assert yaml.safe_load(lines)["methods"]["semi-pruning"]["0.8"] == {name: row[name] for name in names}
    assert found["command"].endswith(" --trials 4 --splits 2 --finalists 2")


def test_no_final_begins_after_the_deadline(wine_table, tmp_path, monkeypatch):
    search(tmp_path, trials=2)
    monkeypatch.setattr(table_search.time, "time", iter([0, 1, 100]).__next__)
    assert search(tmp_path, trials=2, finalists=2, deadline=50) is None


def test_lines_for_a_dense_network_keep_what_its_recipe_says_beside(wine_table, tmp_path):
    object.__setattr__(wine_table, "methods", {"dense": {None: {"lr": 0.05, "average": 1}}})
    lines = search(tmp_path, "dense", Cell("wine", 0.0), trials=1)
    found = yaml.safe_load(lines)["methods"]["dense"]["default"]
    assert (found["lr"], found["average"]) == (0.05, 1)


def test_the_first_trial_is_the_recipe(wine_table, tmp_path):
    search(tmp_path, trials=1)
    run = content(tmp_path)["runs"][0]
    recipe = wine_table.config("semi-pruning", 0.8)
    expected = {"p": 1.2, "lr": 0.03, "other_lr": recipe.other_lr, "regrow": 0.2, "weight_decay": 0.0}
    assert {name: run[name] for name in expected} == expected


def test_what_the_recipe_leaves_out_starts_at_the_default(wine_table, tmp_path):
    search(tmp_path, "set", trials=1, splits=1)
    assert content(tmp_path, "set")["runs"][0]["drop_fraction"] == 0.3
    settings = dict(wine_table.methods)
    settings["semi-pruning"] = {None: {"p": "auto"}}
    object.__setattr__(wine_table, "methods", settings)
    search(tmp_path / "auto", trials=1, splits=1)
    assert content(tmp_path / "auto")["runs"][0]["p"] == p_for_training(0.8)


@pytest.mark.parametrize("method", ["semi-pruning", "set", "dense"])
def test_every_method_gets_the_same_number_of_trials_within_its_spans(wine_table, tmp_path, method):
    cell = Cell("wine", 0.0) if method == "dense" else CELL
    search(tmp_path, method, cell, trials=4, splits=1)
    tried = content(tmp_path, method, cell)["runs"]
    assert len(tried) == 4
    space = spaces(wine_table.config(method, cell.sparsity))
    proposed = [run for run in tried if run["weight_decay"] != 0]  # the recipe, tried first, has none
    assert len(proposed) == 3
    for run in proposed:
        for name, span in space.items():
            assert span.origin + span.low - 1e-9 <= run[name] <= span.origin + span.high + 1e-9


def test_dropout_is_searched_for_tables_and_not_for_images():
    assert "dropout" in spaces(load_recipe("dna").config("rigl", 0.8))
    assert "dropout" not in spaces(load_recipe("fashion-mnist").config("rigl", 0.8))


def test_the_exponent_is_searched_from_1_03_to_1_6_by_the_logarithm_of_what_is_above_1():
    span = spaces(TrainConfig())["p"]
    assert (span.value(span.low), span.value(span.high), span.log) == (1.03, 1.6, True)
    assert span.value(0.123456) == 1.123
    assert span.position(1.2) == pytest.approx(0.2)
    assert (span.position(1.0), span.position(3.0)) == (0.03, 0.6)
    assert Span(1e-5, 1e-2).position(0.0) == 1e-5


def test_the_test_rows_are_never_looked_at(wine_table, tmp_path, monkeypatch):
    def poisoned(config):
        data = load("wine", split_seed=config.split_seed)
        return replace(data, x_test=torch.full_like(data.x_test, torch.nan), y_test=torch.full_like(data.y_test, 99))

    search(tmp_path / "plain")
    running._data.cache_clear()
    monkeypatch.setattr(running, "load_data", poisoned)
    try:
        search(tmp_path / "poisoned")
    finally:
        running._data.cache_clear()
    plain, without = ([{**run, "seconds": 0} for run in content(tmp_path / n)["runs"]] for n in ("plain", "poisoned"))
    assert plain == without


def test_a_search_goes_on_where_it_stopped(wine_table, tmp_path):
    lines = search(tmp_path)
    whole, told = content(tmp_path), []
    path = search_path(tmp_path, CELL, "semi-pruning")
    path.write_text(json.dumps({**whole, "runs": whole["runs"][:3], "table": []}))
    assert search(tmp_path, tell=told.append) == lines
    assert len(told) == 3
    without = [[{**run, "seconds": 0} for run in found["runs"]] for found in (whole, content(tmp_path))]
    assert without[0] == without[1]
    assert search(tmp_path, tell=lambda line: pytest.fail(line), machine={"device": "auto", "threads": 2}) == lines


def test_a_search_begins_where_it_began_after_its_best_settings_went_into_the_recipe(wine_table, tmp_path):
    lines = search(tmp_path, trials=12)  # Optuna looks at the first trial's score from the eleventh on
    start = content(tmp_path)["start"]
    best = yaml.safe_load(lines)["methods"]["semi-pruning"]["0.8"]
    assert start["lr"] == wine_table.config("semi-pruning", 0.8).lr != best["lr"]
    object.__setattr__(wine_table, "methods", {"semi-pruning": {0.8: best}})
    assert search(tmp_path, trials=12, tell=lambda line: pytest.fail(line)) == lines
    assert content(tmp_path)["start"] == start


def test_a_search_of_another_network_is_refused(wine_table, tmp_path):
    search(tmp_path, trials=1)
    object.__setattr__(wine_table, "settings", {**wine_table.settings, "epochs": 2})
    with pytest.raises(ValueError, match=r"holds runs with epochs 3 \(now 2\)"):
        search(tmp_path, trials=1)


def test_lines_for_a_sparsity_keep_what_the_recipe_has_there_beside_what_is_searched(wine_table, tmp_path):
    wine_table.methods["set"][0.8] = {"lr": 0.3, "distribution": "erk", "min_fan_in": 1}
    lines = search(tmp_path, cell=Cell("wine", 0.8), method="set", trials=1, splits=1)
    own = yaml.safe_load(lines)["methods"]["set"]["0.8"]
    assert own.items() >= {"lr": 0.3, "distribution": "erk", "min_fan_in": 1}.items()


def test_no_trial_begins_after_the_deadline_and_no_best_is_told(wine_table, tmp_path):
    assert search(tmp_path, deadline=time.time() - 1) is None
    assert not search_path(tmp_path, CELL, "semi-pruning").exists()


def test_the_command_that_is_kept_names_no_folders(wine_table, tmp_path):
    search(tmp_path, trials=1, splits=1, machine={**MACHINE, "data_dir": str(tmp_path)})
    found = content(tmp_path)
    expected = "lpsphere reproduce table --cells wine:0.8 --methods semi-pruning --search --trials 1 --splits 1"
    assert found["command"] == expected
    assert str(tmp_path) not in json.dumps(found)


@pytest.mark.parametrize("split_by_seed", [False, True])
def test_trials_split_the_rows_as_the_recipe_does(wine_table, tmp_path, monkeypatch, split_by_seed):
    seen = []

    def results(self, runs):
        seen.extend((run.config.seed, run.config.split_seed, run.validation) for run in runs)
        return [{"accuracy": 0.5} for _ in runs]

    monkeypatch.setattr(table_search, "load_recipe", lambda data: replace(wine_table, split_by_seed=split_by_seed))
    monkeypatch.setattr(table_search.Runs, "results", results)
    search(tmp_path, trials=1, splits=3)
    assert seen == [(seed, seed if split_by_seed else 0, seed) for seed in range(3)]
