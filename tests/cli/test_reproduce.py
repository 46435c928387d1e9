import json

import pytest

CELL = ("reproduce", "table", "--cells", "wine:0.5", "--device", "cpu")


def test_the_table_is_trained_shown_and_not_trained_again(wine_table, lpsphere, tmp_path):
    status, out, err = lpsphere(*CELL, "--methods", "semi-pruning,dense", "--seeds", 2)
    assert (status, err) == (0, "")
    assert out.count(": accuracy ") == 4
    record = json.loads((tmp_path / "results" / "table" / "wine-semi-pruning-0.5-seed1.json").read_text())
    assert f"wine-semi-pruning-0.5-seed1: accuracy {record['test_accuracy']:.4f}" in out
    assert (tmp_path / "runs" / "table" / "wine-dense-0-seed0" / "model.safetensors").exists()
    status, out, _ = lpsphere(*CELL, "--methods", "semi-pruning,dense", "--seeds", 2)
    assert status == 0
    assert ": accuracy " not in out
    assert "results: results/table" in out


def test_after_its_minutes_it_says_how_to_go_on(wine_table, lpsphere, tmp_path):
    status, out, err = lpsphere(*CELL, "--minutes", 0)
    assert (status, err) == (0, "")
    assert "stopped in time, all saved; 5 of 5 runs are left: give the same command again" in out
    status, out, _ = lpsphere(*CELL, "--minutes", 10, "--seeds", 1)
    assert status == 0
    assert "again" not in out
    assert (tmp_path / "results" / "table" / "wine-semi-pruning-0.5-seed0.json").exists()


def test_another_folder_has_runs_of_its_own(wine_table, lpsphere, tmp_path):
    assert lpsphere(*CELL, "--seeds", 1, "--out", "trial")[0] == 0
    assert (tmp_path / "trial" / "wine-semi-pruning-0.5-seed0.json").exists()
    assert (tmp_path / "trial" / "runs" / "wine-semi-pruning-0.5-seed0").is_dir()
    assert not (tmp_path / "runs").exists()


def test_a_search_prints_lines_for_the_recipe(wine_table, lpsphere, tmp_path):
    words = (*CELL, "--methods", "semi-pruning,dense", "--search", "--trials", 2, "--splits", 1)
    status, out, err = lpsphere(*words)
    assert (status, err) == (0, "")
    assert '    "0.5": {p: ' in out
    assert '    "default": {lr: ' in out
    assert {path.name for path in (tmp_path / "results" / "table-search").glob("*.json")} == {
        "wine-semi-pruning-0.5.json",
        "wine-dense-0.json",
    }
    status, out, _ = lpsphere(*words, "--out", "other", "--minutes", 0)
    assert status == 0
    assert "2 of 2 searches are left: give the same command again" in out


def test_an_ablation_shows_what_each_change_does(wine_table, lpsphere, tmp_path, monkeypatch):
    monkeypatch.setattr("lpsphere.experiments.ablation.variations", lambda config: {"p = 2": {"p": 2.0}})
    words = ("reproduce", "ablation", "--cells", "wine:0.5", "--splits", 2, "--device", "cpu")
    status, out, err = lpsphere(*words)
    assert (status, err) == (0, "")
    assert "wine:0.5, on validation parts:" in out
    assert "p = 2" in out
    assert (tmp_path / "results" / "ablation" / "wine-semi-pruning-0.5.json").exists()
    status, out, err = lpsphere(*words, "--epochs", 3, "--change", "hidden=[8,4],p=1.3", "--out", "other")
    assert (status, err) == (0, "")
    assert "hidden=[8,4],p=1.3" in out
    status, _, err = lpsphere(*words, "--change", "p")
    assert status == 2
    assert "--change takes NAME=VALUE, such as --change regrow=0.5; got 'p'" in err
    status, _, err = lpsphere(*words, "--search")
    assert status == 2
    assert "--search: this is for reproduce table; leave it out for ablation" in " ".join(err.split())


def test_the_page_is_written_from_the_results(wine_table, lpsphere, tmp_path):
    lpsphere(*CELL, "--seeds", 1)
    status, out, err = lpsphere("reproduce", "page", "--seeds", 1)
    assert (status, err) == (0, "")
    assert "page: docs/results.md\npage: docs/ablations.md\n" in out
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "## Wine" in text
    assert "(1)" in text
    assert lpsphere("reproduce", "page", "--seeds", 1, "--out", "pages")[0] == 0
    assert (tmp_path / "pages" / "results.md").read_text() == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("everything",),
            "unknown experiment 'everything': choose one of digits, sparsity, grow-init, table, ablation, page",
        ),
        (
            ("digits", "--cells", "dna"),
            "--cells: this is for reproduce table and reproduce ablation; leave it out for digits",
        ),
        (
            ("page", "--search", "--device", "cpu"),
            "--device: this is for reproduce table and reproduce ablation; leave it out for page",
        ),
        (
            ("ablation", "--seeds", 2),
            "--seeds: this is for reproduce table and reproduce page and reproduce digits and reproduce sparsity and "
            "reproduce grow-init; leave it out for ablation",
        ),
        (
            ("table", "--search", "--seeds", 2),
            "--seeds: a search has no seeds but those of its validation splits: say --splits",
        ),
        (("table", "--trials", 3), "--trials, --splits and --finalists are for --search: add it, or leave them out"),
        (("table", "--cells", "dna:0.7"), "the table has no cell 'dna:0.7'"),
        (("table", "--methods", "magic"), "unknown method 'magic'"),
    ],
)
def test_a_bad_request_is_explained(lpsphere, tmp_path, words, message):
    status, _, err = lpsphere("reproduce", *words)
    assert status == 2
    assert message in " ".join(err.split())
    assert not list(tmp_path.iterdir())
