import json
import re
import runpy
from pathlib import Path

import pytest

import lpsphere as lp
from lpsphere.experiments import auto_p, hoyer, stationarity
from lpsphere.experiments.compare import readable
from lpsphere.text import markdown

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {path.name: path.read_text(encoding="utf-8") for path in PAGES}
METHODS = TEXT["methods.md"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_file_that_a_page_links_to_exists(path):
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", TEXT[path.name])]
    links = [link for link in links if link and not link.startswith("http")]
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_public_name_is_explained_somewhere():
    text = "\n".join(TEXT.values())
    assert [name for name in lp.__all__ if not re.search(rf"\b(lp|lpsphere)\.{name}\b|`{name}`", text)] == []


@pytest.mark.parametrize("name", ["compare-digits", "compare-mnist", "compare-mnist-without-norm"])
def test_the_tables_of_the_comparison_are_those_of_the_results(name):
    content = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
    table = markdown(readable(content["table"]))
    assert table == (ROOT / "results" / f"{name}.md").read_text(encoding="utf-8")
    assert table in METHODS


@pytest.mark.parametrize(
    "name", ["study-hoyer-fashion-mnist", "study-hoyer-dna", "study-hoyer-mnist", "study-stationarity"]
)
def test_the_tables_of_the_studies_are_those_of_the_results(name):
    content = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
    table = markdown((stationarity if "stationarity" in name else hoyer).readable(content["table"]))
    assert table == (ROOT / "results" / f"{name}.md").read_text(encoding="utf-8")
    assert table in TEXT["theory-at-work.md"]


def test_the_table_of_auto_is_that_of_the_results():
    rows = []
    for name in auto_p.CONDITIONS:
        rows += json.loads((ROOT / "results" / f"auto-p-{name}.json").read_text(encoding="utf-8"))["table"]
    table = markdown(auto_p.readable(rows))
    assert table == (ROOT / "results" / "auto-p.md").read_text(encoding="utf-8")
    assert table in TEXT["theory-at-work.md"]


def test_the_table_of_the_overhead_is_that_of_the_results():
    rows = json.loads((ROOT / "results" / "mask-overhead.json").read_text(encoding="utf-8"))["rows"]
    lines = [
        f"| {row['contender']} | {row['step_ms']:.1f} | {row['step_against_dense']:.3f} | "
        f"{row['with_updates_against_dense']:.3f} |"
        for row in rows
    ]
    assert [line for line in lines if line not in METHODS] == []
    assert max(row["with_updates_against_dense"] for row in rows) <= 1.05
    assert max(row["mask_bytes_per_weight"] for row in rows) == 1


def test_the_table_of_the_estimators_is_that_of_the_results():
    rows = json.loads((ROOT / "results" / "sklearn-table.json").read_text(encoding="utf-8"))["rows"]
    table = (ROOT / "results" / "sklearn-table.md").read_text(encoding="utf-8")
    assert table in TEXT["scikit-learn.md"]
    assert all(f"{row['accuracy']:.4f} ± {row['sd']:.4f}" in table for row in rows)
    ours = {row["data"]: row for row in rows if row["contender"] == "LpSphereClassifier"}
    assert len(ours) == 6
    assert all(abs(row["sparsity"] - 0.9) < 1e-3 for row in ours.values())
    for contender in ("StandardScaler, MLPClassifier", "MLPClassifier"):
        others = [row for row in rows if row["contender"] == contender]
        assert len(others) == 6
        assert sum(ours[row["data"]]["accuracy"] >= row["accuracy"] for row in others) >= 4


@pytest.mark.parametrize("name", ["sklearn-defaults", "sklearn-sizes"])
def test_the_other_tables_on_the_estimators_are_those_of_the_results(name):
    rows = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    table = (ROOT / "results" / f"{name}.md").read_text(encoding="utf-8")
    assert table in TEXT["scikit-learn.md"]
    assert {row["contender"] for row in rows} == {line.split(" | ")[1] for line in table.splitlines()[2:]}


def test_the_example_of_the_page_on_scikit_learn_works():
    code = TEXT["scikit-learn.md"].partition("```python\n")[2].partition("```")[0]
    names = {}
    exec(code, names)
    assert abs(names["classifier"].sparsity_ - 0.9) < 1e-3


@pytest.mark.parametrize(
    ("benchmark", "page"),
    [
        ("training_step", "what-sparsity-buys.md"),
        ("sparse_layer", "what-sparsity-buys.md"),
        ("memory", "what-sparsity-buys.md"),
        ("masked_and_sparse", "what-sparsity-buys.md"),
        ("sklearn_table", "scikit-learn.md"),
        ("char_gpt", "with-other-libraries.md"),
    ],
)
def test_the_tables_of_the_benchmarks_are_those_of_the_results(benchmark, page, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    readable = runpy.run_path(str(ROOT / "benchmarks" / f"{benchmark}.py"))["readable"]
    result = ROOT / "results" / f"{benchmark.replace('_', '-')}.json"
    content = json.loads(result.read_text(encoding="utf-8"))
    table = markdown(readable(content["runs" if "runs" in content else "rows"]))
    assert table == result.with_suffix(".md").read_text(encoding="utf-8")
    assert table in TEXT[page]


def test_what_is_said_of_the_sparse_networks_is_in_the_results():
    def rows(name):
        return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))["rows"]

    steps = {(row["sparsity"], row["contender"]): row for row in rows("training-step")}
    for sparsity, least in ((0.9, 3), (0.95, 5), (0.98, 9), (0.99, 12)):
        ours = steps[sparsity, "sparse"]
        assert ours["faster_than_dense"] >= least
        assert ours["faster_than_best_of_sparselab"] >= 2
    ratios = [f"{row['faster_than_dense']:.1f}" for row in rows("training-step") if row["contender"] == "layers"]
    text = " ".join(TEXT["what-sparsity-buys.md"].split())
    assert f"is {', '.join(ratios[:-1])} and {ratios[-1]} times faster" in text
    optimizers = {row["contender"]: row for row in rows("optimizer-step") if row["p"] == 1.15}
    ours, plain = (optimizers[name]["against_sgd"] for name in ("LpSGD", "plain formula"))
    assert f"takes {ours:.1f} times as long as torch's SGD" in TEXT["what-sparsity-buys.md"]
    assert f"plainly {plain:.0f} times" in TEXT["what-sparsity-buys.md"]
    for row in rows("masked-and-sparse"):
        assert abs(row["masked_mean"] - row["sparse_mean"]) <= row["masked_sd"]


def test_the_latencies_are_those_of_the_results():
    content = json.loads((ROOT / "results" / "inference.json").read_text(encoding="utf-8"))
    page = TEXT["running-sparse.md"]
    for row in content["latency"]:
        ratios = f"{row['least_faster_than_masked']:.1f} | {row['least_faster_than_folded']:.1f}"
        assert f"| {row['batch']} | {row['contender']} | {row['least_us']:.1f} | {ratios} |" in page
        if row["contender"] == "compacted":
            assert min(row["least_faster_than_masked"], row["median_faster_than_masked"]) >= 3
    for file in content["files"]:
        assert file["file"] == "dense safetensors" or file["share_of_dense"] <= 0.15
        assert "masked" in file["file"] or f"{file['bytes']:,}" in page
    assert content["test_accuracy_compacted"] == content["test_accuracy"]


def test_the_page_on_own_methods_shows_the_example():
    example = (ROOT / "examples" / "own_method.py").read_text(encoding="utf-8")
    page = TEXT["write-your-own-method.md"]
    for line in ("return (neuron.weight * neuron.gradient).abs()", "return gradient.abs()"):
        assert line in example
        assert line in page
