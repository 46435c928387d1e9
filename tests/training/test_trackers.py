"""Trackers of a run: what they are told, once each, and what is said where there is none."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from lpsphere.training import Interrupted, TrainConfig, Trainer, trackers
from lpsphere.training.trackers import check_trackers

pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TRACKED = TrainConfig(hidden=(32, 32), epochs=4, device="cpu", threads=1, trackers=("tensorboard",))
LAYERS = ["hidden.0.linear.weight", "hidden.1.linear.weight"]


def told(folder):
    """What TensorBoard shows: for each tag its (step, value) pairs."""
    events = EventAccumulator(str(folder / "trackers" / "lpsphere"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def history(folder, kind):
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def assert_told(folder):
    """TensorBoard shows the numbers of the history and of the summary, each once."""
    shown = told(folder)
    epochs, updates = history(folder, "epoch"), history(folder, "update")
    result = json.loads((folder / "summary.json").read_text())
    expected = {f"epoch/{name}": [(row["step"], row[name]) for row in epochs] for name in epochs[0]}
    expected |= {f"update/{name}": [(row["step"], row[name]) for row in updates] for name in ("sparsity", "threshold")}
    for name in ("dropped", "regrown"):
        expected |= {f"update/{name}/{layer}": [(row["step"], row[name][layer]) for row in updates] for layer in LAYERS}
    expected |= {f"result/{name}": [(result["steps"], value)] for name, value in result.items()}
    for tag, pairs in expected.items():
        numbers = [pair for pair in pairs if isinstance(pair[1], int | float)]
        if numbers and not tag.endswith("/step"):
            assert [step for step, _ in shown[tag]] == [step for step, _ in numbers], tag
            assert [value for _, value in shown[tag]] == pytest.approx([value for _, value in numbers], rel=1e-6), tag
    for layer, figures in zip(LAYERS, result["layers"], strict=True):
        assert [step for step, _ in shown[f"epoch/hoyer/{layer}"]] == [row["step"] for row in epochs]
        assert shown[f"epoch/hoyer/{layer}"][-1][1] == pytest.approx(figures["hoyer"], rel=1e-6)


def settings_told(folder):
    return list((folder / "trackers" / "lpsphere").glob("*/hparams.yml"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracked")
    Trainer(TRACKED, folder).fit()
    return folder


def test_tensorboard_is_told_what_the_history_and_the_summary_hold(whole):
    assert_told(whole)
    assert all(math.isfinite(value) for pairs in told(whole).values() for _, value in pairs)


def test_the_settings_are_told_once(whole):
    (file,) = settings_told(whole)
    text = file.read_text()
    assert "sparsity: 0.9\n" in text
    assert "hidden: '[32, 32]'\n" in text


@pytest.mark.parametrize(("crash", "every"), [(50, 1), (70, 2), (84, 3), (10, 1)])
def test_a_run_that_crashed_goes_on_and_tells_nothing_twice(tmp_path, crash, every, crash_at):
    config = replace(TRACKED, checkpoint_every=every)  # what was told after the last checkpoint comes again
    crash_at(crash, Trainer(config, tmp_path))
    Trainer(config, tmp_path, resume=True).fit()
    assert_told(tmp_path)


def test_a_run_that_is_told_to_stop_closes_its_trackers_and_goes_on(tmp_path):
    trainer = Trainer(TRACKED, tmp_path)
    with pytest.raises(Interrupted):
        trainer.fit(lambda progress: trainer.stop() if progress.step == 50 else None)
    assert trainer.accelerator.trackers == []
    assert told(tmp_path)["update/sparsity"][-1][0] in range(40, 51)
    Trainer(TRACKED, tmp_path, resume=True).fit()
    assert_told(tmp_path)
    assert len(settings_told(tmp_path)) == 1


def test_a_finished_run_that_is_resumed_tells_nothing(whole):
    files = sorted(whole.glob("trackers/**/*"))
    Trainer(TRACKED, whole, resume=True).fit()
    assert sorted(whole.glob("trackers/**/*")) == files


def test_another_run_in_the_same_folder_shows_only_itself(tmp_path):
    Trainer(TRACKED, tmp_path).fit()
    Trainer(replace(TRACKED, epochs=2, seed=1), tmp_path).fit()
    assert_told(tmp_path)


def test_a_run_without_connections_to_choose_is_tracked_too(tmp_path):
    Trainer(replace(TRACKED, method="dense", optimizer="sgd", epochs=1), tmp_path).fit()
    shown = told(tmp_path)
    assert [step for step, _ in shown["epoch/train_loss"]] == [21]
    assert len(shown[f"epoch/hoyer/{LAYERS[0]}"]) == 1


def test_tracking_changes_nothing_of_training(whole, tmp_path):
    Trainer(replace(TRACKED, trackers=()), tmp_path).fit()
    assert (tmp_path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (tmp_path / "trackers").exists()


def test_a_tracker_of_one_s_own_is_told_by_its_name(tmp_path, monkeypatch):
    tracking = pytest.importorskip("accelerate.tracking")
    calls = []

    class Diary(tracking.GeneralTracker):
        name = "diary"
        requires_logging_directory = False

        def __init__(self, project, **kwargs):
            super().__init__()
            calls.append(("start", project))

        @property
        def tracker(self):
            return calls

        def store_init_configuration(self, values):
            calls.append(("settings", values["p"]))

        def log(self, values, step=None, **kwargs):
            calls.append(("log", step))

        def finish(self):
            calls.append(("finish", None))

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "diary", Diary)
    Trainer(replace(TRACKED, method="dense", epochs=2, trackers=("diary",)), tmp_path).fit()
    assert calls == [("start", "lpsphere"), ("settings", 1.15), *[("log", s) for s in (21, 42, 42)], ("finish", None)]


def test_an_unknown_tracker_is_an_error_that_says_which_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"unknown tracker 'tensorbord': choose from aim, .*tensorboard, .*wandb"):
        Trainer(replace(TRACKED, trackers=("tensorbord",)), tmp_path)
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "'lpsphere[tensorboard]'"), ("wandb", "wandb")])
def test_a_tracker_whose_package_is_missing_is_an_error_that_says_what_to_install(monkeypatch, name, package):
    monkeypatch.setattr(trackers, "get_available_trackers", list)
    with pytest.raises(ModuleNotFoundError, match=rf"the tracker {name} needs .*pip install ") as raised:
        check_trackers([name])
    assert str(raised.value).endswith(package)
