"""Lightning's Trainer on digits, for torchrun: `lightning_training.py FOLDER COUNT`, in COUNT processes."""

import os
import sys
import warnings
from pathlib import Path

import lightning.pytorch as lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import lpsphere as lp
from lpsphere.data import load
from lpsphere.integrations.lightning import SparseTraining

BATCH = 128


class Digits(lightning.LightningModule):
    """A perceptron in float64, on spheres."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))
        self.double()

    def training_step(self, batch, index):
        """The loss."""
        x, y = batch
        return nn.functional.cross_entropy(self.network(x), y)

    def configure_optimizers(self):
        """LpSGD with a schedule."""
        groups = lp.param_groups(self, p=1.2, lr=0.03, other_lr=0.1, radius="init")
        optimizer = lp.LpSGD(groups, momentum=0.9, nesterov=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class KeepMasks(lightning.Callback):
    """The masks after every batch."""

    def __init__(self, sparse):
        self.sparse, self.masks = sparse, []

    def on_train_batch_end(self, trainer, pl_module, *rest):
        """Copy them."""
        self.masks.append({name: mask.clone() for name, mask in self.sparse.topology.masks.items()})


def main(folder, count):
    """Train in ``count`` processes; each writes what it has come to."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = load("digits")
    rows = TensorDataset(data.x_train.flatten(1).double(), data.y_train)
    sparse = SparseTraining("semi-pruning", sparsity=0.9)
    keep, module = KeepMasks(sparse), Digits()
    trainer = lightning.Trainer(
        max_epochs=4, accelerator="cpu", devices=count, strategy="ddp" if count > 1 else "auto",
        callbacks=[sparse, keep], logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, precision="64-true",
        use_distributed_sampler=False,
    )  # fmt: skip
    sampler = DistributedSampler(rows, count, int(os.environ["RANK"]), shuffle=False)  # Lightning's own shuffles
    trainer.fit(module, DataLoader(rows, batch_size=BATCH // count, sampler=sampler, drop_last=True))
    weights = {name: weight.detach() for name, weight in module.named_parameters()}
    torch.save({"masks": keep.masks, "weights": weights}, Path(folder) / f"{trainer.global_rank}-of-{count}.pt")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
