import json
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from scipy.stats import ttest_rel

from lpsphere.experiments.digits import digits
from lpsphere.experiments.grow_init import grow_init
from lpsphere.experiments.plots import accuracy_against_sparsity
from lpsphere.experiments.processes import side_by_side
from lpsphere.experiments.runs import Run, Runs, mean_and_sd, paired_p_value
from lpsphere.experiments.sparsity import sparsity
from lpsphere.training import Interrupted, TrainConfig

CONFIG = TrainConfig(data="wine", hidden=(16, 16), epochs=2, batch_size=32, device="cpu", threads=1)


def test_an_interrupted_experiment_goes_on_where_it_stopped(tmp_path):
    path, told = tmp_path / "results" / "x.json", []
    first = Runs(path, "An\n  experiment.", CONFIG, "lpsphere reproduce x", told.append)
    accuracies = first.accuracies({"method": "a"}, CONFIG, 2)
    assert len(told) == 2
    again = Runs(path, "An experiment.", CONFIG, "lpsphere reproduce x", told.append)
    assert again.accuracies({"method": "a"}, CONFIG, 2) == accuracies
    assert len(told) == 2
    again.accuracies({"method": "b"}, CONFIG, 1)
    assert told[2].startswith("method b, seed 0: accuracy 0.")
    again.write([{"method": "a", "mean": mean_and_sd(accuracies)[0]}])
    content = json.loads(path.read_text())
    assert content["what"] == "An experiment."
    assert content["command"] == "lpsphere reproduce x"
    assert content["settings"]["data"] == "wine"
    assert [(run["method"], run["seed"]) for run in content["runs"]] == [("a", 0), ("a", 1), ("b", 0)]
    assert all(run["sparsity"] == pytest.approx(0.9, abs=0.01) for run in content["runs"])
    assert all(0 < run["training_flops"] < run["training_flops_dense"] for run in content["runs"])
    assert content["table"][0]["mean"] == sum(accuracies) / 2


def test_runs_side_by_side_are_those_of_one_after_the_other(tmp_path):
    runs = [Run({"seed": seed}, CONFIG, validation) for seed, validation in ((0, None), (1, 0), (2, 1))]
    one_by_one = Runs(tmp_path / "one.json", "", CONFIG, "", lambda line: None)
    with Runs(tmp_path / "two.json", "", CONFIG, "", lambda line: None, processes=2) as side_by_side:
        results = side_by_side.results(runs)
    expected = one_by_one.results(runs)
    assert [{**run, "seconds": 0} for run in results] == [{**run, "seconds": 0} for run in expected]
    assert [run["seed"] for run in results] == [0, 1, 2]


def test_a_file_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "x.json"
    Runs(path, "", CONFIG, "", lambda line: None).write([])
    other = TrainConfig(data="wine", hidden=(16, 16), epochs=3, batch_size=32, device="cpu", threads=1)
    with pytest.raises(ValueError, match=r"x\.json holds runs with epochs 2 \(now 3\): .* write elsewhere with --out"):
        Runs(path, "", other, "", lambda line: None)


def test_two_processes_add_to_one_file(tmp_path):
    path = tmp_path / "x.json"
    one, other = (Runs(path, "", CONFIG, "", lambda line: None) for _ in range(2))
    one.results([Run({"change": "a", "seed": seed}, CONFIG) for seed in range(2)])
    other.results([Run({"change": "b"}, CONFIG)])
    one.results([Run({"change": "c"}, CONFIG)])
    assert [run["change"] for run in json.loads(path.read_text())["runs"]] == ["a", "a", "b", "c"]


def test_the_table_stays_until_there_is_a_new_one(tmp_path):
    path = tmp_path / "x.json"
    Runs(path, "", CONFIG, "", lambda line: None).write([{"change": "a"}])
    again = Runs(path, "", CONFIG, "", lambda line: None)
    again.results([Run({"change": "b"}, CONFIG)])
    assert json.loads(path.read_text())["table"] == [{"change": "a"}]


def test_runs_of_other_versions_say_which(tmp_path):
    path, told = tmp_path / "x.json", []
    Runs(path, "", CONFIG, "", told.append).results([Run({"change": "a"}, CONFIG)])
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "versions": {"torch": "1.0"}}))
    for change in ("b", "c"):
        Runs(path, "", CONFIG, "", told.append).results([Run({"change": change}, CONFIG)])
    found = json.loads(path.read_text())
    assert found["versions"] == content["versions"]
    assert [run.get("versions") for run in found["runs"]] == [{"torch": "1.0"}, None, None]
    assert sum("the runs so far are of" in line for line in told) == 1


def test_no_call_begins_after_one_that_ctrl_c_has_stopped():
    begun = []

    def call(number):
        begun.append(number)
        if number == 1:
            raise Interrupted

    with ThreadPoolExecutor(2) as executor:
        ended = [place for place, _ in side_by_side(executor, 2, call, [(number,) for number in range(6)])]
    assert sorted(ended) == sorted(begun)
    assert 1 in begun
    assert len(begun) <= 3


def test_no_more_calls_are_under_way_than_there_are_processes():
    submitted = []

    class Watched(ThreadPoolExecutor):
        def submit(self, function, *arguments):
            submitted.append(super().submit(function, *arguments))
            assert sum(not future.done() for future in submitted) <= 3
            return submitted[-1]

    with Watched(3) as executor:
        ended = {place: future.result() for place, future in side_by_side(executor, 3, str, [(n,) for n in range(20)])}
    assert ended == {n: str(n) for n in range(20)}


def test_mean_and_standard_deviation_of_one_and_of_several():
    assert mean_and_sd([0.5]) == (0.5, 0.0)
    assert mean_and_sd([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))


def test_the_plot_has_a_line_for_each_method_and_a_band(tmp_path):
    rows = [
        {"method": method, "target": target, "test_accuracy": 0.9, "test_accuracy_sd": 0.01}
        for method in ("LpSGD, p = 1.2", "SGD")
        for target in (0.5, 0.9)
    ]
    band = {"method": "dense", "test_accuracy": 0.95, "test_accuracy_sd": 0.01}
    figure = accuracy_against_sparsity(rows, "Wine", band=band, baseline="SGD")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert sorted(labels) == ["LpSGD, p = 1.2", "SGD", "dense"]
    figure.savefig(tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5_000


def test_a_run_that_diverges_scores_nothing_and_says_so(tmp_path):
    wild = replace(CONFIG, method="dense", optimizer="sgd", lr=1e30, schedule="constant", norm=False)
    runs = Runs(tmp_path / "x.json", "", CONFIG, "", lambda line: None)
    assert runs.results([Run({}, wild), Run({}, wild, 0)]) == [{"accuracy": 0.0, "diverged": True}] * 2


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_fails_loses_none_of_the_others(tmp_path, processes):
    impossible = replace(CONFIG, sparsity=0.999)
    with (
        Runs(tmp_path / "x.json", "", CONFIG, "", lambda line: None, processes=processes) as runs,
        pytest.raises(ValueError, match="largest feasible sparsity"),
    ):
        runs.results([Run({"seed": 0}, CONFIG), Run({"seed": 1}, impossible)])
    assert [run["seed"] for run in json.loads((tmp_path / "x.json").read_text())["runs"]] == [0]


@pytest.mark.parametrize("experiment", [digits, sparsity, grow_init], ids=["digits", "sparsity", "grow-init"])
def test_the_experiments_can_go_on_from_the_results_that_are_kept(experiment, request):
    path = Path(__file__).parents[2] / "results" / f"{request.node.callspec.id}.json"
    module = sys.modules[experiment.__module__]
    runs = Runs(path, module.__doc__, module._BASE, "", lambda line: None)
    assert len(runs.runs) > 100


ENDLESS = """
from pathlib import Path
from lpsphere.experiments.runs import Run, Runs
from lpsphere.training import TrainConfig

if __name__ == "__main__":
    config = TrainConfig(data="digits", epochs=100_000, device="cpu", threads=1)
    with Runs(Path("x.json"), "", config, "", print, processes=2) as runs:
        runs.results([Run({"seed": seed}, config) for seed in range(4)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_the_one_that_started_them(tmp_path, how):
    (tmp_path / "endless.py").write_text(ENDLESS)
    parent = psutil.Popen([sys.executable, "endless.py"], cwd=tmp_path)
    deadline = time.monotonic() + 120
    while sum(child.cpu_times().user > 4 for child in parent.children(recursive=True)) < 2:  # in the midst of training
        assert parent.is_running()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    children = parent.children(recursive=True)
    parent.send_signal(how)
    parent.wait(60)
    gone, alive = psutil.wait_procs(children, timeout=30)
    for child in alive:
        child.kill()
    assert alive == []
    assert len(gone) >= 2


def test_a_paired_test_needs_differences_that_differ_by_more_than_rounding():
    assert paired_p_value([0.3, 0.7, 1.1], [0.2, 0.6, 1.0]) is None
    assert paired_p_value([0.5], [0.4]) is None
    ours, theirs = [0.3, 0.8, 1.1], [0.2, 0.6, 1.0]
    assert paired_p_value(ours, theirs) == pytest.approx(ttest_rel(ours, theirs).pvalue, rel=1e-9)


def test_splits_that_overlap_make_a_paired_test_more_careful():
    # differences 0.1, 0.2, 0.1: mean 2/15, sd 1/sqrt(300); t = (2/15) / sqrt((1/3 + 2/3) / 300) = 2.3094 with 2 degrees
    # of freedom, for which P(|t| > x) = 1 - x / sqrt(2 + x^2)
    t = 2 / 15 * 300**0.5
    assert paired_p_value([0.3, 0.8, 1.1], [0.2, 0.6, 1.0], 2 / 3) == pytest.approx(
        1 - t / (2 + t * t) ** 0.5, rel=1e-9
    )
