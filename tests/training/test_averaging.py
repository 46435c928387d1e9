import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from lpsphere.data import Dataset
from lpsphere.training import TrainConfig, Trainer, evaluate_run
from lpsphere.training.checkpoints import load_model

CONFIG = TrainConfig(
    data="digits", hidden=(32, 32), epochs=6, batch_size=64, average=2, end=0.5, schedule="constant", device="cpu",
    threads=1,
)  # fmt: skip


def weights_after_each_epoch(config, folder, **options):
    """Train; the weights (no batch-norm statistics) after each epoch."""
    seen = []
    trainer = Trainer(config, folder, **options)

    def on_step(progress):
        if progress.row:
            seen.append({name: w.detach().clone() for name, w in trainer.plain_model.named_parameters()})

    trainer.fit(on_step)
    return seen


@pytest.mark.parametrize("method", ["semi-pruning", "static", "dense"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_saved_weights_are_the_mean_of_the_last_epochs(tmp_path, method, count):
    config = replace(CONFIG, method=method, end=CONFIG.end if method == "semi-pruning" else None, average=count)
    seen = weights_after_each_epoch(config, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    for name, last in seen[-1].items():
        mean = torch.stack([weights[name].double() for weights in seen[-count:]]).mean(0)
        torch.testing.assert_close(saved[name].double(), mean, rtol=1e-5, atol=1e-7)
        if count > 1 and last.ndim > 1:
            assert not torch.equal(saved[name], last)


def test_averaging_changes_neither_the_course_of_training_nor_the_sparsity(tmp_path):
    plain, averaged = (
        Trainer(replace(CONFIG, average=count), tmp_path / str(count)).fit() for count in (0, CONFIG.average)
    )
    rows = [
        [json.loads(line) for line in (tmp_path / str(count) / "history.jsonl").read_text().splitlines()]
        for count in (0, CONFIG.average)
    ]
    assert [{**row, "seconds": 0} for row in rows[0]] == [{**row, "seconds": 0} for row in rows[1]]
    assert plain["connections"] == averaged["connections"]
    assert plain["test_loss"] == rows[0][-1]["test_loss"] != averaged["test_loss"]
    saved = load_file(tmp_path / str(CONFIG.average) / "model.safetensors")
    hidden = [value for name, value in saved.items() if name.startswith("hidden") and name.endswith("linear.weight")]
    assert sum(int((w != 0).sum()) for w in hidden) <= averaged["connections"]
    assert evaluate_run(tmp_path / str(CONFIG.average))["test_accuracy"] == averaged["test_accuracy"]


def test_batch_norm_statistics_are_those_of_the_averaged_network(tmp_path):
    trainer = Trainer(replace(CONFIG, batch_size=2000, epochs=30), tmp_path)  # the whole data in one batch
    trainer.fit()
    model = load_model(tmp_path / "model.safetensors")
    x = model.hidden[0].linear(trainer.data.x_train)
    torch.testing.assert_close(model.hidden[0].norm.running_mean, x.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.hidden[0].norm.running_var, x.var(0), rtol=1e-4, atol=1e-5)


def test_weights_on_spheres_are_left_where_their_mean_is(tmp_path):
    Trainer(replace(CONFIG, average=3), tmp_path).fit()
    weight = load_file(tmp_path / "model.safetensors")["hidden.0.linear.weight"]
    norms = (weight.double().abs() ** CONFIG.p).sum(1) ** (1 / CONFIG.p)
    assert float(norms.max()) < 1 + 1e-5
    assert float(norms.min()) < 0.999


@pytest.mark.parametrize("crash", [30, 83, 84, 100, 126])
def test_an_averaged_run_continues_bit_for_bit(tmp_path, crash, crash_at):
    Trainer(CONFIG, tmp_path / "whole").fit()

    crash_at(crash, Trainer(CONFIG, tmp_path / "crashed"))
    torch.manual_seed(12345)
    Trainer(CONFIG, tmp_path / "crashed", resume=True).fit()
    expected, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "crashed"))
    assert expected.keys() == ours.keys()
    assert all(torch.equal(value, ours[name]) for name, value in expected.items())


def test_augmented_images_give_the_statistics_of_an_averaged_wide_resnet_in_a_fixed_order(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(96, 2, 8, 8, generator=generator), torch.randint(0, 3, (96,), generator=generator)
    data = Dataset("noise", "classification", x[:64], y[:64], x[64:], y[64:], ("a", "b", "c"), ())
    config = replace(
        CONFIG, model="wide_resnet", blocks=(1, 1, 1), width=4, batch_size=16, crop=2, cutout=3, mixed_precision="bf16"
    )
    for name in ("one", "two"):
        Trainer(config, tmp_path / name, data=data).fit()
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert int(one["stem.bn.num_batches_tracked"]) == 4


@pytest.mark.parametrize(("end", "allowed"), [(0.67, False), (0.66, True)])
def test_epochs_in_which_connections_change_are_not_averaged(tmp_path, end, allowed):
    config = replace(CONFIG, end=end)  # 4 of 6 epochs of 21 steps are 84 of 126 steps
    if allowed:
        Trainer(config, tmp_path)
        return
    message = r"average=2 epochs begin after step 84 of 126, but connections change until step 84|until step 8\d"
    with pytest.raises(ValueError, match=message):
        Trainer(replace(config, end=end + 0.01), tmp_path)
