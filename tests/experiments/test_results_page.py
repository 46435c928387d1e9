import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lpsphere.experiments import results_page
from lpsphere.experiments.results_page import render_page, write_page
from lpsphere.experiments.runs import paired_p_value
from lpsphere.experiments.table import parse_cells, read_results

ROOT = Path(__file__).parents[2]


def record(method="semi-pruning", target=0.8, seed=0, accuracy=0.9, **changes):
    weights = 1000
    connections = round(weights * (1 - target))
    return {
        "data": "wine",
        "method": method,
        "target": target,
        "seed": seed,
        "sparsity": 1 - connections / weights,
        "test_accuracy": accuracy,
        "epochs": 3,
        "parameters": 990,
        "selected_weights": weights,
        "connections": connections,
        "seconds": 90.0,
        "device": "cpu",
        "precision": "no",
        "threads": 2,
        "versions": {},
        "settings": {"data": "wine", "seed": seed, "split_seed": seed, "lr": 0.1},
        "command": "",
        **changes,
    }


@pytest.fixture
def page(wine_table, tmp_path):
    """Keep results, write the page, read it."""

    def write(*records, seeds=5, searches=()):
        results, searched = tmp_path / "results", tmp_path / "searches"
        for folder in (results, searched):
            folder.mkdir(exist_ok=True)
        for i, content in enumerate(records):
            (results / f"{i}.json").write_text(json.dumps(content))
        for name, table in searches:
            settings = {"hidden": [16, 16], "epochs": 3, "batch_size": 32, "average": 0}
            (searched / f"{name}.json").write_text(json.dumps({"table": table, "settings": settings, "runs": []}))
        return write_page(tmp_path / "docs" / "results.md", results, searched, seeds).read_text()

    return write


def tables(text, *, overview=False):
    """The tables of a page's sections or of its overview, each a list of rows as header -> cell."""
    found = []
    sections = [part for part in text.split("\n## ") if part.startswith("At a glance") == overview]
    for block in re.findall(r"(?:^\|.*\n)+", "\n".join(sections), flags=re.MULTILINE):
        header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        found.append([dict(zip(header, row, strict=True)) for row in rows])
    return found


def test_a_mean_above_the_paper_s_is_bold_and_one_below_is_not(page):
    text = page(
        record(target=0.5, accuracy=0.7), record(target=0.5, accuracy=0.8, seed=1), record(target=0.8, accuracy=0.9)
    )
    half, most = tables(text)[0]
    assert (half["ours"], half["paper"], half["difference"]) == ("**75.00 ± 7.07 (2)**", "50.00", "+25.00")
    assert (most["ours"], most["paper"], most["difference"]) == ("90.00 (1)", "99.90", "-9.90")
    assert (half["time of a run"], half["connections"]) == ("1.5 min on cpu, 2 threads", "500 of 1,000")


def test_at_a_glance_ours_stands_beside_the_paper_dense_and_the_best_of_the_others(page):
    text = page(
        record(accuracy=0.93),
        record(accuracy=0.95, seed=1),
        record("dense", 0.0, accuracy=0.99),
        record("set", accuracy=0.96),
        record("rigl", accuracy=0.97),
        record("rigl", accuracy=0.93, seed=1),
        record("gmp", 0.5, accuracy=0.98),
        record(target=0.9, accuracy=0.92),
    )
    ((most, beyond),) = tables(text, overview=True)
    assert most == {
        "data": "Wine",
        "sparsity": "0.8",
        "ours": "94.00 ± 1.41 (2)",
        "paper": "99.90",
        "dense SGD": "99.00 (1)",
        "best of the others": "SET 96.00 (1)",
        "ours less that": "–",
    }
    assert (beyond["sparsity"], beyond["paper"], beyond["best of the others"]) == ("0.9", "–", "–")


def test_ours_is_compared_with_the_best_of_the_others_from_three_seeds_on(page):
    runs = [
        record(method, seed=i, accuracy=a) for i in range(3) for method, a in (("semi-pruning", 0.9), ("set", 0.92))
    ]
    for count, told in ((5, "–"), (6, "-2.00")):
        ((row,),) = tables(page(*runs[:count]), overview=True)
        assert row["ours less that"] == told


def test_without_ours_there_is_no_overview(page):
    assert "At a glance" not in page(record("set"))


@pytest.mark.parametrize(("connections", "said"), [(200, "exact"), (201, "0.7990")])
def test_a_sparsity_that_was_missed_is_told(page, connections, said):
    text = page(record(connections=connections, sparsity=1 - connections / 1000))
    assert tables(text)[0][1]["sparsity reached"] == said


def test_one_run_that_missed_its_sparsity_is_seen_among_others(page):
    text = page(record(), record(seed=1, connections=150, sparsity=0.85))
    assert tables(text)[0][1]["sparsity reached"] == "0.8500; exact"


def test_devices_and_precisions_are_named(page):
    text = page(
        record(device="NVIDIA X", precision="bf16", seconds=36),
        record(seed=1, device="NVIDIA X", precision="bf16", seconds=38),
        record(seed=2, threads=1, seconds=7200),
        record("dense", 0.0, precision="bf16"),
        record("set", threads=1),
    )
    assert tables(text)[0][1]["time of a run"] == "37.0 s on NVIDIA X, bf16; 2.0 h on cpu, 1 thread"
    assert ("\n\nIn mixed precision: ours at 0.8 (2 of 3 runs), dense SGD; the other runs in float32.\n\n") in text


def test_runs_of_one_precision_need_no_words_about_it(page):
    assert "In mixed precision" not in page(record(precision="bf16"), record(seed=1, precision="bf16"))


def test_settings_of_training_in_which_methods_differ_are_told(page):
    assert "average" not in re.sub(r"(?s)^.*## Wine", "", page(record()))
    assert "At 0.9, 0.95, 0.98 crop is 2, but 4 for dense SGD.\n\n" in (ROOT / "docs" / "results.md").read_text()


def test_other_methods_stand_beside_ours_or_are_left_out(page):
    text = page(record(), record("dense", 0.0, accuracy=0.95), record("set", 0.8, accuracy=0.85))
    half, most = tables(text)[1]
    assert (most["dense SGD"], most["SET"], most["RigL"]) == ("95.00 (1)", "85.00 (1)", "–")
    assert (half["dense SGD"], half["SET"], half["ours"]) == ("95.00 (1)", "–", "–")


def test_what_is_missing_has_its_command_until_it_is_there(page):
    cells = [("semi-pruning", 0.5), ("semi-pruning", 0.8), ("set", 0.8), ("dense", 0.0)]
    text = page(*(record(method, target, seed) for method, target in cells for seed in range(2)), seeds=2)
    commands = re.findall(r"^lpsphere reproduce table .*$", text, flags=re.MULTILINE)
    assert commands == [
        "lpsphere reproduce table --cells wine --methods static,rigl,snip,gmp --seeds 2",
        "lpsphere reproduce table --cells wine:0.5 --methods set --seeds 2",
    ]
    text = page(seeds=3)
    assert "Not run, or with fewer than 3 seeds:" in text
    assert "--cells wine --methods semi-pruning,dense,static,set,rigl,snip,gmp --seeds 3" in text


def test_two_classes_have_more_scores_and_a_paired_comparison_with_dense(page):
    ours, dense = [0.9, 0.8, 0.95], [0.85, 0.82, 0.9]
    more = {"test_balanced_accuracy": 0.6, "test_auc": 0.7}
    records = [record(seed=i, accuracy=a, **more) for i, a in enumerate(ours)]
    records += [record("dense", 0.0, i, a, **{**more, "test_auc": 0.5 + i / 100}) for i, a in enumerate(dense)]
    text = page(*records, record("dense", 0.0, 7, 0.1, **more))
    scores, paired = tables(text)[2:]
    assert [row["network"] for row in scores] == ["dense SGD", "ours, sparsity 0.8"]
    assert scores[1]["area under the ROC curve"] == "70.00 ± 0.00 (3)"
    (row,) = paired
    assert (row["sparsity"], row["splits"]) == ("0.8", "3")
    assert row["accuracy"] == f"+2.67 ± 4.04 (p = {paired_p_value(ours, dense, 1 / 3):.2g})"
    assert row["balanced accuracy"] == "+0.00 ± 0.00"
    assert row["area under the ROC curve"].startswith("+19.00 ± 1.00 (p = ")


def test_more_classes_have_neither(page):
    assert len(tables(page(record(test_balanced_accuracy=0.5)))) == 1
    text = page(record(test_balanced_accuracy=0.5), record("dense", 0.0, test_balanced_accuracy=0.5))
    assert len(tables(text)) == 3
    assert "area under" not in text


def test_without_new_results_the_page_stays_the_same_to_the_byte(page, tmp_path):
    records = [record(seed=seed, accuracy=0.9 + seed / 100) for seed in range(3)]
    text = page(*records)
    assert page() == text
    for path in (tmp_path / "results").iterdir():
        path.unlink()
    assert page(*reversed(records)) == text
    assert page(record(seed=0, accuracy=0.5)) != text


def test_runs_of_different_settings_are_not_averaged(page):
    other = {"data": "wine", "seed": 1, "split_seed": 1, "lr": 0.2, "flip": True}
    with pytest.raises(
        ValueError, match=r"wine, semi-pruning, sparsity 0\.8 with seeds 0 and 1 differ in flip, lr: remove"
    ):
        page(record(), record(seed=1, settings=other))


def test_it_is_said_which_methods_differ_from_ours_by_more_than_the_spread(page):
    ours = [record(seed=i, accuracy=0.9 + 0.01 * i) for i in range(3)]  # 0.91 and 0.01
    ours += [record(seed=i, target=0.9, accuracy=0.8) for i in range(3)]
    dense = [record("dense", 0.0, i, 0.9) for i in range(3)]
    assert "than ours: dense SGD at 0.9; worse: none." in page(*ours, *dense)
    for accuracy, told in ((0.93, "SET at 0.8, dense SGD at 0.9; worse: none"), (0.89, "at 0.9; worse: SET at 0.8")):
        alike = [record("set", seed=i, accuracy=accuracy) for i in range(3)]
        assert f"{told}." in page(*ours, *dense, *alike)
    spread = [record("set", seed=i, accuracy=0.9 + 0.03 * i) for i in range(3)]  # 0.93 and 0.03
    assert "than ours: dense SGD at 0.9; worse: none." in page(*ours, *dense, *spread)


def test_few_seeds_tell_nothing_apart(page):
    runs = [record(method, seed=i) for i in range(3) for method in ("semi-pruning", "set")]
    assert "better than ours" not in page(*runs[:4])
    assert "better than ours: none; worse: none." in page(*runs)


def test_how_methods_share_connections_out_is_told(page, wine_table):
    told = "found over the network for ours; uniform for SET; every neuron keeps a connection with ours."
    assert f"Densities of the layers at 0.5, 0.8: {told}" in page()
    wine_table.methods["set"][0.8] = {"distribution": "erk", "min_fan_in": 1}
    assert f"Densities of the layers at 0.5: {told} Densities of the layers at 0.8: found over the net" in page()
    assert "ours; erk for SET; every neuron keeps a connection with ours, SET." in page()


def test_searches_are_told_with_their_effort(page):
    assert "not searched for all methods alike: the recipe says where" in page(searches=[("wine-set-0.8", [])])
    text = page(
        searches=[
            ("wine-semi-pruning-0.8", [{"trials": 16, "splits": 2}]),
            ("wine-set-0.8", [{"trials": 16, "splits": 2}]),
            ("wine-dense-0", [{"trials": 8, "splits": 3, "finalists": 2, "final_splits": 9}]),
        ]
    )
    expected = (
        "searched on parts of the training rows of the splits (a row that one of them tests is a training row of "
        "others), from those on that the recipe had: ours at 0.8, SET at 0.8 (16 trials, 2 splits); dense SGD (8 "
        "trials, 3 splits, the best 2 on 9)."
    )
    assert expected in text


def test_a_search_with_another_network_is_told(page, wine_table, monkeypatch):
    settings = {**wine_table.settings, "hidden": [8]}
    monkeypatch.setattr(results_page, "load_recipe", lambda data: replace(wine_table, settings=settings))
    text = page(searches=[("wine-set-0.8", [{"trials": 16, "splits": 2}])])
    assert "SET at 0.8 (16 trials, 2 splits, with hidden=[16, 16])." in text


def test_the_page_of_all_data_sets_lists_what_the_paper_has(tmp_path):
    text = render_page(read_results(tmp_path), tmp_path, 5)
    assert len(re.findall(r"^## ", text, flags=re.MULTILINE)) == 7
    assert [row["paper"] for row in tables(text)[0]][:3] == ["95.33", "92.33", "97.55"]
    commands = re.findall(r"--cells (\S+) ", text)
    assert commands == ["dna", "mushroom", "climate", "mnist", "fashion-mnist", "cifar-10", "tiny-imagenet"]


def test_the_page_is_that_of_the_results():
    text = render_page(read_results(ROOT / "results" / "table"), ROOT / "results" / "table-search", 5)
    assert text == (ROOT / "docs" / "results.md").read_text(encoding="utf-8"), "lpsphere reproduce page writes it anew"


def test_the_cells_that_the_page_names_in_its_commands_exist():
    named = re.findall(r"--cells (\S+)", (ROOT / "docs" / "results.md").read_text(encoding="utf-8"))
    assert named
    assert all(parse_cells(cells) for cells in named)


def test_pictures_are_drawn_of_what_has_several_sparsities_with_enough_seeds(page, tmp_path):
    runs = [record(target=target, seed=i) for target in (0.8, 0.9) for i in range(3)]
    picture = tmp_path / "results" / "wine.png"
    assert "![" not in page(*runs[:5])
    assert not picture.exists()
    assert "![Accuracy against sparsity on Wine](../results/table/wine.png)\n" in page(*runs)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_picture_shows_all_methods_the_paper_and_dense_training(wine_table):
    runs = [record(target=target) for target in (0.5, 0.8)] + [record("set"), record("dense", 0.0, accuracy=0.7)]
    table = {(run["method"], run["target"]): [run] for run in runs}
    (axes,) = results_page._picture(wine_table, table).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["dense SGD", "ours", "SET", "paper"]
    lines = [container.lines[0].get_ydata().tolist() for container in axes.containers]
    assert lines == [[90.0, 90.0], [90.0], [50.0, pytest.approx(99.9)]]
    assert axes.lines[-1].get_ydata()[0] == 70.0


def test_the_pictures_of_the_page_exist():
    pictures = re.findall(r"!\[.*\]\((.*)\)", (ROOT / "docs" / "results.md").read_text(encoding="utf-8"))
    assert len(pictures) == 3
    assert all((ROOT / "docs" / picture).is_file() for picture in pictures)
