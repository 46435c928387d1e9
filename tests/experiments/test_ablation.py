import json
from dataclasses import replace
from statistics import fmean

import pytest

from lpsphere.experiments import ablation
from lpsphere.experiments.ablation import ablate, variations
from lpsphere.experiments.recipes import DATA, load_recipe
from lpsphere.experiments.table import Cell
from lpsphere.training.setup import check_method_settings, given_settings

CELL = Cell("wine", 0.8)


def run(folder, splits=2, cell=CELL, method="semi-pruning", **more):
    told = []
    path, content = ablate(
        cell, method, folder, splits=splits, command="x", tell=told.append, machine={"device": "cpu"}, **more
    )
    assert content == json.loads(path.read_text())
    return content, told


@pytest.fixture
def few_variations(monkeypatch):
    monkeypatch.setattr(ablation, "variations", lambda config: {"p = 2": {"p": 2.0}, "one epoch": {"epochs": 1}})


def test_every_change_is_set_against_the_recipe_on_the_same_splits(wine_table, few_variations, tmp_path):
    content, told = run(tmp_path)
    assert len(told) == len(content["runs"]) == 3 * 2
    scores = {}
    for result in content["runs"]:
        scores.setdefault(result["change"], []).append(result["accuracy"])
    rows = {row["change"]: row for row in content["table"]}
    assert set(rows) == {"the recipe", "p = 2", "one epoch"}
    for name, row in rows.items():
        assert row["validation_accuracy"] == pytest.approx(fmean(scores[name]))
        assert row["difference"] == pytest.approx(fmean(scores[name]) - fmean(scores["the recipe"]))
    assert rows["one epoch"]["difference"] < 0
    assert rows["the recipe"]["p_value"] is None
    means = [row["validation_accuracy"] for row in content["table"]]
    assert means == sorted(means, reverse=True)
    assert {row["diverged"] for row in content["table"]} == {0}


def test_rows_of_fewer_splits_are_ordered_by_their_difference_and_runs_that_diverged_are_counted():
    accuracies = {"the recipe": [0.9, 0.8], "good": [0.95, 0.84], "hard split": [0.81], "diverged": [0.0, 0.0]}
    seeds = {name: [1] if name == "hard split" else [0, 1] for name in accuracies}
    runs = [
        {"change": name, "seed": seed, "accuracy": accuracy} | ({} if accuracy else {"diverged": True})
        for name, own in accuracies.items()
        for seed, accuracy in zip(seeds[name], own, strict=True)
    ]
    table = ablation._table(runs)
    assert [row["change"] for row in table] == ["good", "hard split", "the recipe", "diverged"]
    assert [row["diverged"] for row in table] == [0, 0, 0, 2]
    assert table[-1] | {"change": ""} == dict.fromkeys(table[-1]) | {"change": "", "splits": 2, "diverged": 2}


def test_splits_on_which_the_recipe_diverged_are_not_compared():
    recipe, change = [0.95, 0.95, 0.96, None], [0.94, 0.94, 0.95, 0.94]
    runs = [
        {"change": name, "seed": seed, **({"accuracy": 0.0, "diverged": True} if a is None else {"accuracy": a})}
        for name, own in (("the recipe", recipe), ("lr=1", change))
        for seed, a in enumerate(own)
    ]
    ours, of_recipe = ablation._table(runs)
    assert (ours["change"], ours["diverged"], of_recipe["diverged"]) == ("lr=1", 0, 1)
    assert ours["difference"] == pytest.approx(-0.01)
    assert (ours["splits"], ours["validation_accuracy"]) == (4, pytest.approx(0.9425))
    assert of_recipe["validation_accuracy"] == pytest.approx(fmean(recipe[:3]))


def test_another_recipe_has_a_file_of_its_own(wine_table, tmp_path):
    changes = {"p=2": {"p": 2.0}}
    for epochs in (2, 1, 2):
        content, told = run(tmp_path, 1, changes=changes, epochs=epochs)
        assert content["settings"]["epochs"] == epochs
    assert told == []
    assert {path.name for path in tmp_path.glob("*.json")} == {
        "wine-semi-pruning-0.8.json",
        "wine-semi-pruning-0.8-2.json",
    }


def test_it_goes_on_where_it_stopped(wine_table, few_variations, tmp_path):
    run(tmp_path, splits=1)
    _, told = run(tmp_path, splits=2)
    assert len(told) == 3


def test_changes_and_epochs_of_ones_own_add_to_what_the_file_holds(wine_table, tmp_path):
    short, changes = {"epochs": 2}, {"batch_size=16": {"batch_size": 16}}
    run(tmp_path, changes=changes, **short)
    content, told = run(tmp_path, splits=1, changes={"p=2": {"p": 2.0}}, **short)
    assert len(told) == 1
    assert content["settings"]["epochs"] == 2
    rows = {row["change"]: row for row in content["table"]}
    assert {name: row["splits"] for name, row in rows.items()} == {"the recipe": 2, "batch_size=16": 2, "p=2": 1}
    own = {run["seed"]: run["accuracy"] for run in content["runs"] if run["change"] == "the recipe"}
    other = next(run["accuracy"] for run in content["runs"] if run["change"] == "p=2")
    assert rows["p=2"]["difference"] == pytest.approx(other - own[0])
    with pytest.raises(ValueError, match="unknown settings speed"):
        run(tmp_path, changes={"speed=2": {"speed": 2}}, **short)


def test_other_methods_have_changes_of_ones_own_alone(wine_table, tmp_path):
    dense = Cell("wine", 0.0)
    content, told = run(tmp_path, 1, dense, "dense", changes={"average=1": {"average": 1}})
    assert (len(told), content["settings"]["method"]) == (2, "dense")
    assert [path.name for path in tmp_path.glob("*.json")] == ["wine-dense-0.json"]
    with pytest.raises(ValueError, match="the usual changes are those of semi-pruning: say what to change about set"):
        run(tmp_path, method="set")


@pytest.mark.parametrize("data", DATA)
def test_every_variation_can_be_trained_and_differs_from_the_recipe(data):
    config = load_recipe(data).config("semi-pruning", 0.9)
    changed = variations(config)
    assert len(changed) > 15
    for change in changed.values():
        other = replace(config, **change)
        assert other != config
        check_method_settings("semi-pruning", given_settings(other))


def test_what_the_recipe_has_already_is_no_variation():
    config = load_recipe("dna").config("semi-pruning", 0.9)
    changes = variations(config).values()
    assert {"p": config.p} not in changes
    assert {"label_smoothing": config.label_smoothing} not in changes
