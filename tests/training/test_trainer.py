import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from lpsphere.data import Dataset
from lpsphere.training import Interrupted, TrainConfig, Trainer, evaluate_run

SMALL = TrainConfig(hidden=(32, 32), epochs=4, device="cpu", threads=1)


def history(folder):
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    Trainer(SMALL, folder).fit()
    return folder


@pytest.mark.parametrize("crash", [1, 21, 22, 50, 63, 83, 84])
def test_a_run_that_crashed_continues_bit_for_bit(whole, tmp_path, crash, crash_at):
    crash_at(crash, Trainer(SMALL, tmp_path))
    torch.manual_seed(12345)
    Trainer(SMALL, tmp_path, resume=True).fit()
    expected, ours = load_file(whole / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert expected.keys() == ours.keys()
    for name, value in expected.items():
        assert torch.equal(value, ours[name]), name
    assert history(tmp_path) == history(whole)


@pytest.mark.parametrize("step", [1, 30, 42])
def test_a_run_that_is_told_to_stop_saves_and_continues_bit_for_bit(whole, tmp_path, step):
    trainer = Trainer(SMALL, tmp_path)

    def on_step(progress):
        if progress.step == step:
            trainer.stop()

    with pytest.raises(Interrupted, match="everything is saved"):
        trainer.fit(on_step)
    again = Trainer(SMALL, tmp_path, resume=True)
    assert again.step == step
    again.fit()
    expected, ours = load_file(whole / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(value, ours[name]) for name, value in expected.items())


def test_a_run_that_is_told_to_stop_at_its_end_finishes(tmp_path):
    trainer = Trainer(replace(SMALL, epochs=1), tmp_path)
    assert trainer.fit(lambda progress: trainer.stop() if progress.row else None)["steps"] == 21


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, form="primal", schedule="cosine", grow_init=0.5, dropout=0.2),
        replace(SMALL, optimizer="sgd", schedule="constant", weight_decay=1e-4),
        replace(SMALL, method="dense", radius="init"),
        replace(SMALL, adaptation="paper", p=1.05, distribution="erk"),
    ],
    ids=["primal", "sgd", "dense", "paper"],
)
@pytest.mark.filterwarnings("ignore:finalized")
def test_every_kind_of_run_continues_bit_for_bit(tmp_path, config, crash_at):
    Trainer(config, tmp_path / "whole").fit()
    crash_at(50, Trainer(config, tmp_path / "crashed"))
    Trainer(config, tmp_path / "crashed", resume=True).fit()
    expected, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "crashed"))
    assert all(torch.equal(value, ours[name]) for name, value in expected.items())


@pytest.mark.parametrize("model", ["cnn", "wide_resnet"])
def test_training_on_augmented_images_continues_bit_for_bit(tmp_path, model, crash_at):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(96, 2, 8, 8, generator=generator), torch.randint(0, 3, (96,), generator=generator)
    data = Dataset("noise", "classification", x[:64], y[:64], x[64:], y[64:], ("a", "b", "c"), ())
    config = replace(
        SMALL, model=model, blocks=(1, 1, 1), width=4, epochs=3, batch_size=16, crop=2, flip=True, cutout=3
    )
    Trainer(config, tmp_path / "whole", data=data).fit()
    Trainer(replace(config, cutout=0), tmp_path / "other", data=data).fit()
    crash_at(6, Trainer(config, tmp_path / "crashed", data=data))
    Trainer(config, tmp_path / "crashed", resume=True, data=data).fit()
    whole, ours, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "crashed", "other"))
    assert all(torch.equal(value, ours[name]) for name, value in whole.items())
    assert not all(torch.equal(value, other[name]) for name, value in whole.items())


@pytest.mark.slow
def test_a_compiled_network_trains_as_the_plain_one_and_keeps_its_names(tmp_path):
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    config = replace(SMALL, method="set", optimizer="sgd", average=1)
    plain, compiled = (Trainer(replace(config, compile=on), tmp_path / str(on)).fit() for on in (False, True))
    ours, expected = (load_file(tmp_path / str(on) / "model.safetensors") for on in (True, False))
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-2, atol=1e-3)
    assert compiled["connections"] == plain["connections"]
    assert evaluate_run(tmp_path / "True")["test_accuracy"] == compiled["test_accuracy"]
    resumed = Trainer(replace(config, compile=True), tmp_path / "True", resume=True)
    assert resumed.step == resumed.total_steps


def test_augmentation_of_rows_that_are_no_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="crop=2, flip=False, cutout=0 need images"):
        Trainer(replace(SMALL, crop=2), tmp_path)


def test_the_summary_tells_what_came_out(whole):
    result = json.loads((whole / "summary.json").read_text())
    weights = 64 * 32 + 32 * 32
    assert result["connections"] == round(weights * 0.1)
    assert result["selected_weights"] == weights
    assert result["sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert result["parameters"] == weights + 2 * (32 + 32) + 32 * 10 + 10
    assert result["steps"] == 4 * (1347 // 64)
    assert 0.5 < result["test_accuracy"] <= 1
    assert [layer["layer"] for layer in result["layers"]] == ["hidden.0.linear.weight", "hidden.1.linear.weight"]
    assert result["versions"]["torch"] == torch.__version__


def test_the_saved_network_is_plain_and_has_the_summary_s_accuracy(whole):
    weights = load_file(whole / "model.safetensors")
    assert not [name for name in weights if "mask" in name]
    result = json.loads((whole / "summary.json").read_text())
    evaluated = evaluate_run(whole)
    for key in ("test_accuracy", "test_loss", "sparsity", "connections"):
        assert evaluated[key] == result[key]


def test_history_has_a_row_for_each_epoch_and_each_update(whole):
    rows = history(whole)
    epochs = [row for row in rows if row["kind"] == "epoch"]
    updates = [row for row in rows if row["kind"] == "update"]
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4]
    assert [row["step"] for row in epochs] == [21, 42, 63, 84]
    assert updates[0]["step"] == round(0.2 * 84)
    assert updates[-1]["step"] == round(0.8 * 84)
    assert updates[-1]["sparsity"] == epochs[-1]["sparsity"]
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)


def test_two_checkpoints_are_kept(whole):
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == ["step-000000063", "step-000000084"]


def test_another_seed_gives_another_network(whole, tmp_path):
    Trainer(replace(SMALL, seed=1), tmp_path).fit()
    ours, others = (load_file(folder / "model.safetensors") for folder in (whole, tmp_path))
    assert not torch.equal(ours["head.weight"], others["head.weight"])


def test_a_finished_run_can_be_resumed_without_change(whole):
    before = (whole / "model.safetensors").read_bytes()
    Trainer(SMALL, whole, resume=True).fit()
    assert (whole / "model.safetensors").read_bytes() == before


def test_a_checkpoint_of_another_network_is_refused(whole, tmp_path, crash_at):
    crash_at(42, Trainer(SMALL, tmp_path))
    with pytest.raises(ValueError, match=r"is of another network: .*\(32, 64\) there, \(48, 64\) here"):
        Trainer(replace(SMALL, hidden=(48, 32)), tmp_path, resume=True)


def test_a_loss_that_is_not_finite_ends_training_with_an_explanation(tmp_path):
    config = replace(SMALL, method="dense", optimizer="sgd", lr=1e30, schedule="constant")
    with pytest.raises(FloatingPointError, match=r"training loss of epoch 1 is .*Lower --lr"):
        Trainer(config, tmp_path).fit()


def test_a_run_that_is_not_finished_cannot_be_evaluated(tmp_path, crash_at):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        evaluate_run(tmp_path)
    crash_at(30, Trainer(SMALL, tmp_path))
    with pytest.raises(FileNotFoundError, match="the run is not finished"):
        evaluate_run(tmp_path)


def test_a_damaged_network_is_refused(tmp_path):
    Trainer(replace(SMALL, epochs=1), tmp_path).fit()
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        evaluate_run(tmp_path)


def test_images_need_no_flattening_and_tables_no_convolutions(tmp_path):
    with pytest.raises(ValueError, match="wide_resnet needs images; the rows of digits have shape"):
        Trainer(replace(SMALL, model="wide_resnet"), tmp_path)


@pytest.mark.parametrize("begun", ["bf16", "no"])
def test_a_run_goes_on_in_the_precision_that_it_began_with(tmp_path, monkeypatch, begun):
    config = replace(SMALL, mixed_precision="auto", epochs=2, checkpoint_every=1)
    monkeypatch.setattr("lpsphere.training.trainer.precision", lambda config, cuda: begun)
    first = Trainer(config, tmp_path)
    with pytest.raises(Interrupted):
        first.fit(lambda progress: first.stop() if progress.row else None)
    monkeypatch.setattr("lpsphere.training.trainer.precision", lambda config, cuda: "bf16" if begun == "no" else "no")
    assert Trainer(config, tmp_path, resume=True).fit()["mixed_precision"] == begun
    assert Trainer(config, tmp_path).accelerator.mixed_precision != begun
    named = replace(config, mixed_precision="no")
    monkeypatch.undo()
    assert Trainer(named, tmp_path, resume=True).accelerator.mixed_precision == "no"


def test_one_process_trains_in_different_precisions_one_after_the_other(tmp_path):
    config = replace(SMALL, data="wine", epochs=1)
    names = ["no", "bf16", "no"]
    found = [Trainer(replace(config, mixed_precision=name), tmp_path / str(i)).fit() for i, name in enumerate(names)]
    assert [result["mixed_precision"] for result in found] == names
    assert found[0]["test_loss"] == found[2]["test_loss"] != found[1]["test_loss"]


def test_a_batch_larger_than_the_data_is_the_whole_data(tmp_path):
    result = Trainer(replace(SMALL, data="wine", batch_size=10_000, epochs=3), tmp_path).fit()
    assert result["steps"] == 3
