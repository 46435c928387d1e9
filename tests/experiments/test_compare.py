import json
import math
import sys
from dataclasses import replace

import pytest
from scipy import stats

from lpsphere.experiments import search as searching
from lpsphere.experiments.compare import Entry, compare, parse_methods, readable
from lpsphere.text import markdown
from lpsphere.training import TrainConfig

BASE = TrainConfig(data="wine", hidden=(16,), epochs=3, batch_size=32, device="cpu", threads=1)


def run(path, methods="dense,rigl,semi-pruning", told=None, base=BASE, **changes):
    entries = parse_methods(methods)
    settings = {
        "seeds": 2,
        "trials": 3,
        "splits": 2,
        "reference": entries[-1],
        "command": "lpsphere compare",
        **changes,
    }
    return compare(path, base, entries, [0.5, 0.8], tell=(told if told is not None else []).append, **settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("compare") / "c.json"
    return path, run(path)


def test_methods_are_trained_by_lpsgd_or_sgd_unless_told_otherwise():
    assert parse_methods("dense,semi-pruning, rigl:adamw,semi-pruning:sgd") == [
        Entry("dense", "sgd"),
        Entry("semi-pruning", "lpsgd"),
        Entry("rigl", "adamw"),
        Entry("semi-pruning", "sgd"),
    ]
    (entry,) = parse_methods("rigl:adamw:every=40:distribution=erk")
    assert entry == Entry("rigl", "adamw", (("every", 40), ("distribution", "erk")))
    assert str(entry) == "rigl (adamw, every=40, distribution=erk)"
    (entry,) = parse_methods("rigl:granularity=2:4:every=40:sgd")
    assert entry == Entry("rigl", "sgd", (("granularity", "2:4"), ("every", 40)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dense,magic", "unknown method 'magic': choose from dense, static, set, rigl, snip, gmp, semi-pruning"),
        ("set:lbfgs", "optimizer must be one of lpsgd, sgd, adamw; got 'lbfgs'"),
        ("gmp:regrow=0.5", "gmp takes no regrow; its settings are initial_sparsity, begin, end, every"),
        ("rigl:every=often", "every must be a whole number or nothing, got 'often'"),
        ("rigl:sgd:adamw", "'rigl:sgd:adamw' names several optimizers: give one"),
        ("set,set:sgd", "a method is given twice in 'set,set:sgd'"),
    ],
)
def test_a_wrong_list_of_methods_is_explained(text, message):
    with pytest.raises((TypeError, ValueError), match=message):
        parse_methods(text)


def test_every_method_has_the_same_trials_splits_and_seeds(finished):
    _, result = finished
    rows = [(row["method"], row["target"]) for row in result["table"]]
    assert rows == [
        ("dense (sgd)", 0.0),
        *[(method, sparsity) for method in ("rigl (sgd)", "semi-pruning (lpsgd)") for sparsity in (0.5, 0.8)],
    ]
    for method, sparsity in rows:
        runs = [r for r in result["runs"] if r["method"] == method]
        for part, expected in (("validation", 3 * 2), ("test", 2)):
            chosen = [r for r in runs if r["part"] == part and r["target"] == sparsity]
            assert len(chosen) == expected
        rates = {(r["lr"], r.get("other_lr")) for r in runs if r["part"] == "validation" and r["target"] == sparsity}
        assert len(rates) == 3


def test_the_best_rates_by_validation_are_those_that_are_tested(finished):
    _, result = finished
    for row in result["table"]:
        runs = [r for r in result["runs"] if (r["method"], r["target"]) == (row["method"], row["target"])]
        scores = {}
        for r in runs:
            if r["part"] == "validation":
                scores.setdefault((r["lr"], r.get("other_lr")), []).append(r["accuracy"])
        means = {rates: sum(found) / len(found) for rates, found in scores.items()}
        assert means[row["lr"], row.get("other_lr")] == max(means.values()) == row["validation_accuracy"]
        tested = [r for r in runs if r["part"] == "test"]
        assert {(r["lr"], r.get("other_lr")) for r in tested} == {(row["lr"], row.get("other_lr"))}
        assert row["test_accuracy"] == pytest.approx(sum(r["accuracy"] for r in tested) / 2)


def test_the_cost_of_training_is_counted(finished):
    _, result = finished
    by_method = {(row["method"], row["target"]): row for row in result["table"]}
    dense = by_method["dense (sgd)", 0.0]
    assert dense["training_flops"] == dense["training_flops_dense"]
    for method in ("rigl (sgd)", "semi-pruning (lpsgd)"):
        assert by_method[method, 0.8]["training_flops"] < by_method[method, 0.5]["training_flops"]
        assert by_method[method, 0.5]["training_flops"] < dense["training_flops"]


def test_differences_are_paired_by_seed(finished):
    _, result = finished
    tested = {(r["method"], r["target"], r["seed"]): r["accuracy"] for r in result["runs"] if r["part"] == "test"}
    for row in result["table"]:
        if row["method"] == "semi-pruning (lpsgd)":
            assert row["difference"] is row["p_value"] is None
            continue
        sparsity = row["target"] or 0.5  # dense training is held against the lowest sparsity
        ours = [tested[row["method"], row["target"], seed] for seed in range(2)]
        theirs = [tested["semi-pruning (lpsgd)", sparsity, seed] for seed in range(2)]
        assert row["difference"] == pytest.approx(sum(ours) / 2 - sum(theirs) / 2)
        p_value = stats.ttest_rel(ours, theirs).pvalue
        assert row["p_value"] == (pytest.approx(p_value) if math.isfinite(p_value) and p_value > 0 else None)


def test_a_comparison_goes_on_where_it_stopped_and_its_search_repeats(finished, tmp_path):
    path, result = finished
    cut = json.loads(path.read_text())
    cut["runs"] = [r for r in cut["runs"] if r["part"] == "validation" and r["seed"] == 0]
    (tmp_path / "c.json").write_text(json.dumps(cut))
    told = []
    again = run(tmp_path / "c.json", told=told)
    assert len(told) == len(result["runs"]) - len(cut["runs"])
    strip = lambda r: {k: v for k, v in r.items() if k != "seconds"}  # noqa: E731
    assert [strip(r) for r in again["runs"]] == [strip(r) for r in result["runs"]]
    assert again["table"] == result["table"]


def test_a_picture_and_a_table_lie_beside_the_results(finished):
    path, result = finished
    assert path.with_suffix(".png").stat().st_size > 5_000
    text = path.with_suffix(".md").read_text()
    assert text == markdown(readable(result["table"]))
    lines = text.splitlines()
    assert len(lines) == 2 + 5
    row = result["table"][0]
    assert lines[2].startswith(f"| dense (sgd) | 0 | {100 * row['test_accuracy']:.2f} ± ")
    assert "100 %" in lines[2]


def test_without_optuna_the_extra_is_named_and_one_trial_needs_none(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "lpsphere\[compare\]", or pass --trials 1'):
        run(tmp_path / "c.json", "static")
    result = run(tmp_path / "c.json", "static", trials=1, seeds=1, splits=1)
    assert [row["lr"] for row in result["table"]] == [0.1, 0.1]


def test_searched_rates_stay_within_their_space(finished):
    _, result = finished
    for r in result["runs"]:
        optimizer = r["method"].rpartition("(")[2].rstrip(")")
        for name, (low, high) in searching.SPACES[optimizer].items():
            assert low <= r[name] <= high


def test_settings_of_methods_go_to_those_that_take_them_and_own_settings_win(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "lpsphere.experiments.runs.train_once",
        lambda config, validation, measure: (
            seen.setdefault((config.method, config.every), (config.every, config.regrow, config.distribution))
            and {"accuracy": 0.5, "sparsity": 0.5, "training_flops": 1, "training_flops_dense": 2, "dead": 0}
        ),
    )
    base = replace(BASE, every=7, regrow=0.1, distribution="erk")
    run(tmp_path / "c.json", "dense,static,rigl,rigl:every=3,semi-pruning", base=base, trials=1, seeds=1, splits=1)
    assert seen == {
        ("dense", None): (None, None, None),
        ("static", None): (None, None, "erk"),
        ("rigl", 7): (7, None, "erk"),
        ("rigl", 3): (3, None, "erk"),
        ("semi-pruning", 7): (7, 0.1, "erk"),
    }


def test_runs_that_diverge_are_counted(tmp_path, monkeypatch):
    def train_once(config, validation, measure):
        if config.seed == 1 and validation is None:
            return {"accuracy": 0.0, "diverged": True}
        return {"accuracy": 0.5, "sparsity": 0.5, "training_flops": 1, "training_flops_dense": 2, "dead": 3}

    monkeypatch.setattr("lpsphere.experiments.runs.train_once", train_once)
    result = run(tmp_path / "c.json", "set", trials=1)
    assert [(row["diverged"], row["test_accuracy"], row["dead_neurons"]) for row in result["table"]] == [
        (1, 0.25, 3)
    ] * 2
    assert "1 diverged" in (tmp_path / "c.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "regression"}, "compare scores by accuracy: task must be classification, got regression"),
        ({"method": "set", "seed": 3}, "the comparison sets method, seed itself: use --methods"),
        ({"lr": 0.5}, "learning rates are searched: leave lr and other_lr out, or pass --trials 1"),
        ({"other_lr": 0.5}, "learning rates are searched"),
        ({"batches": 3}, "none of the methods takes batches"),
    ],
)
def test_a_base_that_does_not_suit_a_comparison_is_refused_before_anything_is_trained(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "c.json", base=replace(BASE, **changes))
    assert not list(tmp_path.iterdir())
