import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from lpsphere.experiments import auto_p
from lpsphere.experiments.auto_p import CONDITIONS, EXPONENTS, best_constants, readable, study_auto_p, validated
from lpsphere.theory import p_for_training
from lpsphere.theory.training import WEAK_DENSE, WEAK_PER_DECADE, calibrated_p

RESULTS = Path(__file__).parents[2] / "results"


def content(name):
    return json.loads((RESULTS / f"auto-p-{name}.json").read_text(encoding="utf-8"))


def test_constants_that_made_the_accuracies_are_found_again():
    def accuracy(p, best):
        return 0.9 - 0.01 * math.log((p - 1) / (best - 1)) ** 2

    scores = [
        {
            "data": "x",
            "target": s,
            "sd": 0.01,
            "accuracy": {p: accuracy(p, calibrated_p(s, 0.5, 0.14)) for p in EXPONENTS},
        }
        for s in (0.5, 0.8, 0.9, 0.98)
    ]
    dense, per_decade, lost = best_constants(scores)
    assert (dense, per_decade) == (0.5, 0.14)
    assert lost == pytest.approx(0, abs=1e-3)


def test_the_library_has_the_constants_that_the_kept_results_favour():
    scores = []
    for name in CONDITIONS:
        runs = [run for run in content(name)["runs"] if run["part"] == "validation"]
        scores += validated(name, runs)
    assert best_constants(scores)[:2] == (WEAK_DENSE, WEAK_PER_DECADE)


def test_auto_is_as_good_as_the_best_fixed_p_of_the_kept_results():
    rows = [row for name in CONDITIONS for row in content(name)["table"]]
    assert [row["auto_p"] for row in rows] == [p_for_training(row["sparsity"]) for row in rows]
    good = [row["data"] for row in rows if row["sparsity"] == 0.9 and row["within_one_sd"]]
    assert len(good) >= 2  # of three data sets
    for row in rows:
        assert row["within_one_sd"] == (row["auto_accuracy"] >= row["best_accuracy"] - row["best_sd"])


def test_a_study_trains_grid_and_auto_and_compares_them(tmp_path, monkeypatch):
    monkeypatch.setattr(auto_p, "EXPONENTS", (1.2, 1.5, 2.0))
    monkeypatch.setattr(auto_p, "_VALIDATED", {"wine": (0.5, 0.9)})
    monkeypatch.setattr(auto_p, "_TESTED", {"wine": (0.5, 0.9)})
    config = replace(CONDITIONS["digits"], data="wine", hidden=(16, 16), epochs=2, batch_size=32)
    told = []
    table = study_auto_p(tmp_path, {"wine": config}, seeds=2, command="lpsphere study auto-p", tell=told.append)
    assert [row["sparsity"] for row in table] == [0.5, 0.9]
    runs = json.loads((tmp_path / "auto-p-wine.json").read_text())["runs"]
    assert len(runs) == 2 * 3 * 3 + 2 * 4 * 2
    assert any(line.startswith("validation favours the weak fraction ") for line in told)
    tested = [run["accuracy"] for run in runs if run["part"] == "test" and run["p"] == "auto" and run["target"] == 0.5]
    assert table[0]["auto_accuracy"] == pytest.approx(sum(tested) / 2)
    assert readable(table)[0]["auto p"] == f"{p_for_training(0.5):.4g}"
