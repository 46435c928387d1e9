import logging
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lpsphere as lp
from lpsphere.data import load

lightning = pytest.importorskip("lightning.pytorch")
SparseTraining = pytest.importorskip("lpsphere.integrations.lightning").SparseTraining

DIGITS = load("digits")


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


class Digits(lightning.LightningModule):
    def __init__(self, optimizer="lpsgd", schedule=False):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 10))
        self.kind, self.schedule, self.norms = optimizer, schedule, []

    def training_step(self, batch, index):
        x, y = batch
        return nn.functional.cross_entropy(self.network(x), y)

    def configure_optimizers(self):
        if self.kind == "lpsgd":
            groups = lp.param_groups(self, p=1.2, lr=0.02, other_lr=0.2)
            optimizer = lp.LpSGD(groups, momentum=0.9, nesterov=True)
        elif self.kind == "two kinds":
            optimizer = lp.SpheresAndAdamW.of_model(self)
        else:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.003)
        if not self.schedule:
            return optimizer
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rows():
    return DataLoader(TensorDataset(DIGITS.x_train.flatten(1), DIGITS.y_train), batch_size=128, drop_last=True)


def fit(*callbacks, module=None, epochs=4, path=None, **more):
    module = Digits() if module is None else module
    saves = any(isinstance(callback, lightning.callbacks.ModelCheckpoint) for callback in callbacks)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=saves, **more,
    )  # fmt: skip
    trainer.fit(module, rows(), ckpt_path=path)
    return module, trainer


def density(module):
    weight = module.network[0].weight
    return float((weight != 0).float().mean())


@pytest.mark.parametrize("method", ["semi-pruning", "set", "rigl", "snip", "gmp", "static", lp.SemiPruning])
@pytest.mark.parametrize("optimizer", ["lpsgd", "adamw"])
def test_training_ends_at_the_target_with_a_plain_module(method, optimizer):
    callback = SparseTraining(method, sparsity=0.75)
    module, trainer = fit(callback, module=Digits(optimizer))
    assert density(module) == pytest.approx(0.25, abs=2e-3)  # a weight may underflow to 0
    assert set(module.state_dict()) == set(Digits().state_dict())
    assert not any(name.endswith("mask") for name, _ in module.named_buffers())
    assert callback.topology is None
    assert float(trainer.callback_metrics["sparsity"]) == pytest.approx(0.75)
    assert 0 < float(trainer.callback_metrics["hoyer/network.0.weight"]) < 1
    assert "hoyer/network.3.weight" not in trainer.callback_metrics


def test_neurons_stay_on_their_spheres():
    module, _ = fit(SparseTraining(sparsity=0.75))
    norms = lp.geometry.lp_norm(module.network[0].weight.detach(), 1.2)
    torch.testing.assert_close(norms, torch.ones(48))


def test_thresholds_are_logged_at_updates():
    seen = []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            seen.append(trainer.callback_metrics.get("threshold"))

    fit(SparseTraining(sparsity=0.8), Watch())
    known = [float(value) for value in seen if value is not None]
    assert len(set(known)) > 3
    assert all(0 <= value <= 1 for value in known)


@pytest.mark.parametrize("optimizer", ["lpsgd", "adamw"])
@pytest.mark.parametrize("method", ["semi-pruning", "rigl"])
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, method, optimizer):
    whole, _ = fit(SparseTraining(method, sparsity=0.8), module=Digits(optimizer, schedule=True))
    saver = lightning.callbacks.ModelCheckpoint(dirpath=tmp_path, save_top_k=-1)
    module = Digits(optimizer, schedule=True)
    fit(SparseTraining(method, sparsity=0.8), saver, module=module)
    path = sorted(tmp_path.glob("epoch=1*"))[0]
    other = Digits(optimizer, schedule=True)
    other.network[0].weight.data.add_(1)
    again, _ = fit(SparseTraining(method, sparsity=0.8), module=other, path=path)
    for (name, expected), (_, found) in zip(whole.state_dict().items(), again.state_dict().items(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, msg=name)


def test_a_checkpoint_loads_where_the_callback_is_not(tmp_path):
    callback = SparseTraining(sparsity=0.8)
    saver = lightning.callbacks.ModelCheckpoint(dirpath=tmp_path, save_weights_only=True, save_last=True)
    fit(callback, saver, epochs=3)
    module = Digits.load_from_checkpoint(tmp_path / "last.ckpt", map_location="cpu")
    assert density(module) == pytest.approx(0.2, abs=2e-3)


def test_another_method_does_not_go_on_from_it(tmp_path):
    saver = lightning.callbacks.ModelCheckpoint(dirpath=tmp_path, save_last=True)
    fit(SparseTraining("rigl", sparsity=0.8), saver, epochs=1)
    with pytest.raises(ValueError, match="RigL"):
        fit(SparseTraining("set", sparsity=0.8), path=tmp_path / "last.ckpt")


@pytest.mark.parametrize("kind", ["adamw", "two kinds"])
def test_clipping_sees_existing_connections_only(kind):
    class Watch(lightning.Callback):
        def __init__(self):
            self.absent = []

        def on_before_optimizer_step(self, trainer, module, optimizer):
            layer = module.network[0]
            self.absent.append(float(layer.weight.grad[~layer.weight_mask].abs().max()))

    watch = Watch()
    fit(SparseTraining("set", sparsity=0.8), watch, module=Digits(kind), epochs=1, gradient_clip_val=1e-3)
    assert len(watch.absent) == 10
    assert max(watch.absent) == 0


@pytest.mark.parametrize("settings", [{"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}], ids=str)
def test_precision_and_accumulation_are_the_trainers(settings):
    module, _ = fit(SparseTraining(sparsity=0.75), **settings)
    assert density(module) == pytest.approx(0.25, abs=2e-3)


def test_an_interrupted_training_keeps_its_method_and_can_start_anew():
    class Stop(lightning.Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == 1:
                raise KeyboardInterrupt

    callback, module = SparseTraining(sparsity=0.75), Digits()
    with pytest.raises(SystemExit):
        fit(callback, Stop(), module=module)
    assert callback.topology.events
    fit(callback, module=module)
    assert density(module) == pytest.approx(0.25, abs=2e-3)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"method": "magic"}, ValueError, "unknown method 'magic': choose from static"),
        ({"method": 3}, TypeError, "method must be a name"),
    ],
)
def test_a_wrong_method_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        SparseTraining(**arguments)


def test_what_only_training_can_tell_is_refused_when_it_starts():
    with pytest.raises(ValueError, match="optimizer=1 is none of the 1"):
        fit(SparseTraining(optimizer=1))
    with pytest.raises(ValueError, match="training has no planned end"):
        fit(SparseTraining(), epochs=-1)
    with pytest.raises(ValueError, match="sparsity"):
        fit(SparseTraining(sparsity=1.5))


def test_own_total_steps_are_taken():
    callback = SparseTraining(sparsity=0.75, total_steps=20)
    fit(callback, epochs=-1, max_steps=20)
    assert callback.topology is None
