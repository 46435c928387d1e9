import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lpsphere.experiments import hoyer
from lpsphere.experiments.hoyer import CONDITIONS, Condition, layer_table, published_points, readable, study_hoyer
from lpsphere.experiments.hoyer_plots import layer_panels, neuron_against_p
from lpsphere.theory import expected_hoyer
from lpsphere.training import TrainConfig, Trainer

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT.parent / "shared" / "reference" / "hoyer_published.json"
TINY = Condition(
    "Wine",
    TrainConfig(
        data="wine",
        hidden=(16, 8),
        method="dense",
        constrain_last=True,
        epochs=2,
        batch_size=32,
        threads=1,
        device="cpu",
    ),
)


def run_tiny(folder, exponents=(1.2, 2.0), told=None):
    tell = (lambda line: None) if told is None else told.append
    condition = replace(TINY, exponents=exponents)
    return study_hoyer(folder / "x.json", condition, command="lpsphere study hoyer", tell=tell)


def test_a_network_is_trained_for_each_p_and_all_is_written(tmp_path):
    content = run_tiny(tmp_path)
    assert [run["p"] for run in content["runs"]] == [1.2, 2.0]
    assert [row["layer"] for row in content["table"]] == [
        "hidden.0.linear.weight",
        "hidden.1.linear.weight",
        "head.weight",
    ]
    assert [row["fan_in"] for row in content["table"]] == [13, 16, 8]
    for run in content["runs"]:
        for layer in run["layers"]:
            assert layer["expected"] == pytest.approx(expected_hoyer(run["p"], layer["fan_in"]), rel=1e-5)
            assert layer["shape_low"] < layer["shape"] < layer["shape_high"]
            assert 0 < layer["measured"] < 1
        assert len(run["neuron"]) == 13
        assert np.sum(np.abs(run["neuron"]) ** run["p"]) == pytest.approx(1, abs=1e-4)  # on its sphere
    for name in ("x.json", "x.md", "x.png", "x-neuron.png"):
        assert (tmp_path / name).stat().st_size > 100


def test_the_study_goes_on_where_it_stopped(tmp_path):
    told = []
    run_tiny(tmp_path, (1.2,), told)
    first = json.loads((tmp_path / "x.json").read_text())["runs"]
    run_tiny(tmp_path, (1.2, 2.0), told)
    assert [line.split(",")[0] for line in told] == ["p 1.2", "p 2"]
    assert json.loads((tmp_path / "x.json").read_text())["runs"][0] == first[0]


def test_what_is_measured_is_what_the_summary_shows(tmp_path):
    import lpsphere as lp

    trainer = Trainer(replace(TINY.config, p=1.3), tmp_path)
    trainer.fit()
    measured = hoyer.measure_layers(trainer)
    shown = lp.summary(trainer.plain_model, trainer.optimizer, include_last=True).layers
    assert [layer["measured"] for layer in measured["layers"]] == pytest.approx([x.hoyer for x in shown], rel=1e-5)
    assert [layer["expected"] for layer in measured["layers"]] == pytest.approx(
        [x.hoyer_predicted for x in shown], rel=1e-5
    )
    weights = trainer.plain_model.hidden[0].linear.weight[0]
    assert torch.allclose(torch.tensor(measured["neuron"]), weights, rtol=1e-5)


def results(measured, expected, theirs=None):
    layer = {"layer": "a.weight", "neurons": 3, "fan_in": 9, "shape": 0.4, "distance": 0.1}
    return [
        {"p": p, "layers": [{**layer, "measured": m, "expected": e}]}
        for p, m, e in zip((1.1, 1.5, 2.0), measured, expected, strict=True)
    ]


def test_the_table_has_the_deviations_by_hand():
    (row,) = layer_table(results((0.8, 0.4, 0.3), (0.7, 0.5, 0.3)), [{1.1: 0.6, 2.0: 0.5}])
    assert row["deviation"] == pytest.approx(0.2 / 3)
    assert row["largest_deviation"] == pytest.approx(0.1)
    assert row["rank_correlation"] == pytest.approx(1)
    assert row["deviation_at_published_p"] == pytest.approx(0.05)
    assert row["published_deviation"] == pytest.approx(0.15)
    assert row["rank_correlation_with_published"] == pytest.approx(1)
    (row,) = layer_table(results((0.3, 0.4, 0.8), (0.7, 0.5, 0.3)))
    assert row["rank_correlation"] == pytest.approx(-1)
    assert "published_deviation" not in row
    assert readable([row])[0]["layer"] == "a"
    assert readable([row])[0]["largest"] == "0.500"


@pytest.mark.skipif(not REFERENCE.exists(), reason="needs the published figure's data beside the project")
def test_the_published_points_are_those_of_the_figure():
    layers = json.loads(REFERENCE.read_text())["layers"]
    assert published_points() == [dict(map(tuple, layer["measured"])) for layer in layers]
    assert [len(points) for points in published_points()] == [17] * 6


def test_the_pictures_have_a_panel_for_each_layer_and_one_for_each_p():
    def run(p):
        layer = {"layer": "conv.weight", "fan_in": 9, "measured": 0.5, "measured_sd": 0.1}
        return {"p": p, "layers": [layer] * 7, "neuron": [0.1 * i - 0.4 for i in range(9)]}

    runs = [run(p) for p in (1.1, 1.5, 3.0)]
    panels = layer_panels(runs, "Title", [{1.1: 0.7, 3.0: 0.2}] * 7)
    assert isinstance(panels, Figure)
    assert len(panels.axes) == 7
    assert [text.get_text() for text in panels.legends[0].get_texts()] == [
        "expected (band: one neuron's spread)",
        "published measurements",
        "measured (bar: sd over the neurons)",
    ]
    neuron = neuron_against_p(runs, "Title")
    assert neuron.axes[0].get_title().startswith("p = 1.1, H = 0.")
    assert all(len(axes.images) == 1 for axes in neuron.axes)  # nine weights are a filter of 3 x 3
    for entry in runs:
        entry["neuron"].append(0.2)
    assert all(len(axes.images) == 0 for axes in neuron_against_p(runs, "Title").axes)


@pytest.mark.parametrize("name", ["fashion-mnist", "dna", "mnist"])
def test_the_kept_results_are_complete_and_show_what_is_claimed(name):
    path = ROOT / "results" / f"study-hoyer-{name}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [run["p"] for run in content["runs"]] == sorted(CONDITIONS[name].exponents)
    published = published_points() if CONDITIONS[name].published else []
    assert layer_table(content["runs"], published) == content["table"]
    settings = TrainConfig().to_dict() | content["settings"]  # what did not exist yet had what is now its default
    assert settings == replace(CONDITIONS[name].config, data_dir=None).to_dict()
    assert min(row["rank_correlation"] for row in content["table"][:-1]) > 0.98  # the output layer is another matter
    if name == "fashion-mnist":
        for row in content["table"][:3]:
            assert row["deviation_at_published_p"] <= row["published_deviation"]
            assert row["rank_correlation_with_published"] > 0.98
