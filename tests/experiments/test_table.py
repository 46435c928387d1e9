import json
import os
import re
import signal
import time
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from lpsphere.experiments import table
from lpsphere.experiments.recipes import DATA, load_recipe
from lpsphere.experiments.table import (
    Cell,
    Places,
    command_for,
    overview,
    parse_cells,
    parse_methods,
    read_results,
    table_runs,
    train_table,
)
from lpsphere.training import Interrupted, TrainConfig
from lpsphere.training.files import exclusive


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path / "results", tmp_path / "runs")


def runs_of(cells="wine", methods="semi-pruning", seeds=1):
    return table_runs(parse_cells(cells), parse_methods(methods), seeds, device="cpu", threads=1)


def weights(places, run):
    return load_file(places.runs / run.name / "model.safetensors")


def same(ours, expected):
    return ours.keys() == expected.keys() and all(bool((value == ours[n]).all()) for n, value in expected.items())


def test_cells_are_read_from_the_command_line():
    assert parse_cells("fashion-mnist:0.9,dna:.5".replace(":.5", ":0.5")) == [
        Cell("fashion-mnist", 0.9),
        Cell("dna", 0.5),
    ]
    assert parse_cells("dna") == [Cell("dna", sparsity) for sparsity in load_recipe("dna").sparsities]
    assert {cell.data for cell in parse_cells(None)} == set(DATA)


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_cells, "iris", "the table has no data set 'iris': choose from dna, mushroom"),
        (parse_cells, "dna:0.7", "the table has no cell 'dna:0.7': choose from dna:0.5, dna:0.8"),
        (parse_cells, "dna:", "the table has no cell 'dna:'"),
        (parse_cells, "dna,dna:0.9", "a cell is given twice in 'dna,dna:0.9'"),
        (parse_methods, "rigl,magic", "unknown method 'magic': choose from semi-pruning, dense, static"),
        (parse_methods, "rigl,rigl", "a method is given twice in 'rigl,rigl'"),
    ],
)
def test_a_cell_or_method_that_is_none_is_named(parse, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(text)


def test_a_command_names_a_data_set_alone_for_all_of_its_cells():
    cells = [*parse_cells("dna"), *parse_cells("mnist:0.9,mnist:0.5")]
    expected = "lpsphere reproduce table --cells dna,mnist:0.9,mnist:0.5 --methods set,rigl --seeds 3"
    assert command_for(cells, ["set", "rigl"], 3) == expected
    assert " --cells climate --methods dense" in command_for([Cell("climate", 0.0)], ["dense"], 5)


def test_runs_go_seed_by_seed_and_dense_networks_count_once(wine_table):
    names = [run.name for run in runs_of(methods="semi-pruning,dense", seeds=2)]
    one = ["wine-semi-pruning-0.5-seed{}", "wine-dense-0-seed{}", "wine-semi-pruning-0.8-seed{}"]
    assert names == [name.format(seed) for seed in (0, 1) for name in one]
    assert [run.config.split_seed for run in runs_of("wine:0.5", seeds=2)] == [0, 1]


def test_a_run_leaves_a_results_file_that_says_all_and_is_not_trained_again(wine_table, places):
    runs, told = runs_of("wine:0.8", "semi-pruning,dense", 2), []
    assert train_table(runs, places, tell=told.append) == 0
    assert len(told) == 4
    names = {path.name for path in places.results.iterdir()}
    assert names == {f"wine-{kind}-seed{seed}.json" for kind in ("semi-pruning-0.8", "dense-0") for seed in (0, 1)}
    record = json.loads((places.results / "wine-semi-pruning-0.8-seed1.json").read_text())
    summary = json.loads((places.runs / "wine-semi-pruning-0.8-seed1" / "summary.json").read_text())
    assert (record["data"], record["method"], record["target"], record["seed"]) == ("wine", "semi-pruning", 0.8, 1)
    for name in ("test_accuracy", "test_balanced_accuracy", "sparsity", "parameters", "connections", "seconds"):
        assert record[name] == summary[name]
    assert record["connections"] == round(0.2 * record["selected_weights"])
    assert (record["device"], record["precision"], record["threads"], record["epochs"]) == ("cpu", "no", 1, 3)
    assert set(record["versions"]) == {"lpsphere", "torch", "python"}
    assert record["command"] == "lpsphere reproduce table --cells wine:0.8 --methods semi-pruning --seeds 2"
    assert not {"device", "threads", "data_dir", "checkpoint_every"} & set(record["settings"])
    assert TrainConfig.from_dict(record["settings"]) == wine_table.config("semi-pruning", 0.8, 1)
    assert not (places.runs / "wine-semi-pruning-0.8-seed1" / "checkpoints").exists()
    before = {path: path.read_bytes() for path in places.results.iterdir()}
    assert train_table(runs, places, tell=told.append) == 0
    assert len(told) == 4
    assert {path: path.read_bytes() for path in places.results.iterdir()} == before


def test_the_accuracy_is_that_of_the_last_epoch(wine_table, places):
    (run,) = runs_of("wine:0.8")
    run = replace(run, config=replace(run.config, epochs=12, lr=0.05, schedule="constant"))
    train_table([run], places)
    rows = [json.loads(row) for row in (places.runs / run.name / "history.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "epoch"][-1]
    (record,) = read_results(places.results)
    assert last["epoch"] == record["epochs"] == 12
    assert (record["test_accuracy"], record["test_loss"]) == (last["test_accuracy"], last["test_loss"])


def test_a_run_that_the_deadline_stops_goes_on_bit_for_bit(wine_table, places, tmp_path, monkeypatch):
    (run,) = runs_of("wine:0.5")
    whole, told, asked = Places(tmp_path / "a", tmp_path / "b"), [], []
    train_table([run], whole)
    monkeypatch.setattr(table, "_past", lambda deadline: asked.append(deadline) or len(asked) > 6)
    assert train_table([run], places, deadline=1.0, tell=told.append) == 1
    assert told == ["wine-semi-pruning-0.5-seed0: stopped, all saved"]
    assert not list(places.results.glob("*"))
    assert list((places.runs / run.name / "checkpoints").iterdir())
    monkeypatch.undo()
    assert train_table([run], places) == 0
    assert same(weights(places, run), weights(whole, run))


def test_ctrl_c_saves_and_the_run_goes_on_bit_for_bit(wine_table, places, tmp_path, monkeypatch):
    first, second = runs_of("wine:0.5", seeds=2)
    whole, asked = Places(tmp_path / "a", tmp_path / "b"), []
    train_table([first], whole)

    def press(deadline):
        asked.append(deadline)
        if len(asked) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return False

    monkeypatch.setattr(table, "_past", press)
    with pytest.raises(Interrupted):
        train_table([first, second], places)
    assert not (places.runs / second.name).exists()
    monkeypatch.undo()
    assert train_table([first, second], places) == 0
    assert same(weights(places, first), weights(whole, first))


@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_begins_after_the_deadline(wine_table, places, processes):
    assert train_table(runs_of(seeds=2), places, processes=processes, deadline=0.0) == 4
    assert not places.runs.exists()


def test_runs_side_by_side_are_those_of_one_after_the_other(wine_table, places, tmp_path):
    runs, told = runs_of("wine:0.5", "semi-pruning,set", 2), []
    one = Places(tmp_path / "a", tmp_path / "b")
    assert train_table(runs, one) == 0
    assert train_table(runs, places, processes=2, tell=told.append) == 0
    assert len(told) == 4
    without = [[{**record, "seconds": 0} for record in read_results(p.results)] for p in (one, places)]
    assert without[0] == without[1]
    assert all(same(weights(places, run), weights(one, run)) for run in runs)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_diverges_is_named_and_keeps_no_other_from_its_turn(wine_table, places, processes):
    bad, good = runs_of("wine:0.5", "dense", 2)
    bad = replace(bad, config=replace(bad.config, lr=1e30, schedule="constant", norm=False))
    message = "wine-dense-0-seed0: training diverged in epoch 1. Lower lr or other_lr in the recipe of wine and remove"
    with pytest.raises(FloatingPointError, match=message):
        train_table([bad, good], places, processes=processes)
    assert [record["seed"] for record in read_results(places.results)] == [1]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_diverges_does_not_end_a_table_that_the_deadline_stops(wine_table, places, processes, monkeypatch):
    bad, *good = runs_of("wine:0.5", "dense", 4)
    bad = replace(bad, config=replace(bad.config, lr=1e30, schedule="constant", norm=False))
    told = []
    monkeypatch.setattr(table, "_past", lambda deadline: any("diverged" in line for line in told))
    deadline = time.time() + 1000  # for other processes, in which nothing is replaced
    left = train_table([bad, *good], places, processes=processes, deadline=deadline, tell=told.append)
    assert sum("dense-0-seed0: training diverged" in line for line in told) == 1
    assert left == 4 - len(read_results(places.results)) > 1


def test_a_run_that_another_process_is_at_is_left_to_it(wine_table, places):
    runs, told = runs_of("wine:0.5", seeds=2), []
    with exclusive(places.runs / runs[0].name, wait=False):
        assert train_table(runs, places, tell=told.append) == 1
    assert told[0] == f"wine-semi-pruning-0.5-seed0: another process is at {places.runs / runs[0].name}"
    assert [record["seed"] for record in read_results(places.results)] == [1]


def test_a_run_that_another_process_has_ended_meanwhile_is_not_trained_again(wine_table, places):
    (run,) = runs_of("wine:0.5")
    record = table.train_run(run, places)
    (places.results / f"{run.name}.json").write_text(json.dumps({**record, "seconds": 0.25}))
    assert table.train_run(run, places)["seconds"] == 0.25


def test_results_and_unfinished_runs_of_other_settings_are_refused(wine_table, places):
    (run,) = runs_of("wine:0.5")
    train_table([run], places)
    other = replace(run, config=replace(run.config, lr=0.5, device="auto", threads=None))
    message = r"seed0\.json holds a run with lr 0\.02 \(now 0\.5\): the recipe has changed since\. Remove that file and"
    with pytest.raises(ValueError, match=message):
        train_table([other], places)
    (places.results / f"{run.name}.json").unlink()
    with pytest.raises(ValueError, match=r"holds an unfinished run with lr 0\.02 \(now 0\.5\).* Remove that folder"):
        train_table([other], places)


def test_another_machine_s_device_and_threads_are_no_other_settings(wine_table, places):
    (run,) = runs_of("wine:0.5")
    train_table([run], places)
    elsewhere = replace(run, config=replace(run.config, device="auto", threads=2, data_dir="elsewhere"))
    assert train_table([elsewhere], places, tell=lambda line: pytest.fail(line)) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no result of a run"),
        ('{"data": "wine"}', "is no result of lpsphere"),
    ],
)
def test_a_file_that_is_no_result_is_named(wine_table, places, text, message):
    places.results.mkdir()
    (places.results / "x.json").write_text(text)
    with pytest.raises(ValueError, match=rf"x\.json {message}"):
        read_results(places.results)


def test_the_overview_has_a_row_for_each_cell_and_method_beside_the_paper_s(wine_table, places):
    runs = runs_of(methods="semi-pruning,dense", seeds=2)
    train_table([run for run in runs if run.cell.sparsity < 0.8], places)
    rows = {(row["sparsity"], row["method"]): row for row in overview(read_results(places.results), runs)}
    assert {key: (row["seeds"], row["paper"]) for key, row in rows.items()} == {
        (0.5, "semi-pruning"): (2, 0.5),
        (0.0, "dense"): (2, "-"),
        (0.8, "semi-pruning"): (0, 0.999),
    }
    found = [record["test_accuracy"] for record in read_results(places.results) if record["method"] == "dense"]
    assert rows[0.0, "dense"]["test_accuracy"] == pytest.approx(sum(found) / 2)


def test_a_long_run_gives_news_now_and_then(wine_table, places, monkeypatch):
    told = []
    monkeypatch.setattr(table, "_NEWS", -1.0)
    train_table(runs_of("wine:0.5"), places, tell=told.append)
    assert len(told) == 3 + 1
    assert re.fullmatch(r"wine-semi-pruning-0\.5-seed0: epoch 2 of 3, test accuracy [01]\.\d{4}", told[1])
