import json

import pytest

from lpsphere.data import load
from lpsphere.experiments.runs import Runs, mean_and_sd
from lpsphere.experiments.sparsity import plot
from lpsphere.training import TrainConfig

CONFIG = TrainConfig(data="wine", hidden=(16, 16), epochs=2, batch_size=32, device="cpu", threads=1)


def test_an_interrupted_experiment_goes_on_where_it_stopped(tmp_path):
    path, data, told = tmp_path / "results" / "x.json", load("wine"), []
    first = Runs(path, "An\n  experiment.", CONFIG, "lpsphere reproduce x", told.append)
    accuracies = first.accuracies({"method": "a"}, CONFIG, [data, data])
    assert len(told) == 2
    again = Runs(path, "An experiment.", CONFIG, "lpsphere reproduce x", told.append)
    assert again.accuracies({"method": "a"}, CONFIG, [data, data]) == accuracies
    assert len(told) == 2
    again.accuracies({"method": "b"}, CONFIG, [data])
    assert told[2].startswith("method b, seed 0: accuracy 0.")
    again.write([{"method": "a", "mean": mean_and_sd(accuracies)[0]}])
    content = json.loads(path.read_text())
    assert content["what"] == "An experiment."
    assert content["command"] == "lpsphere reproduce x"
    assert content["settings"]["data"] == "wine"
    assert [(run["method"], run["seed"]) for run in content["runs"]] == [("a", 0), ("a", 1), ("b", 0)]
    assert all(run["sparsity"] == pytest.approx(0.9, abs=0.01) for run in content["runs"])
    assert content["table"][0]["mean"] == sum(accuracies) / 2


def test_mean_and_standard_deviation_of_one_and_of_several():
    assert mean_and_sd([0.5]) == (0.5, 0.0)
    assert mean_and_sd([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))


def test_the_plot_has_a_line_for_each_method(tmp_path):
    rows = [
        {"method": method, "target": target, "test_accuracy": 0.9, "test_accuracy_sd": 0.01}
        for method in ("LpSGD, p = 1.2", "SGD")
        for target in (0.5, 0.9)
    ]
    figure = plot(rows)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["LpSGD, p = 1.2", "SGD"]
    figure.savefig(tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5_000
