"""A Lightning module trained sparsely by a callback; needs pip install "lpsphere[lightning]"."""

import lightning.pytorch as lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lpsphere as lp
from lpsphere.integrations.lightning import SparseTraining


class Digits(lightning.LightningModule):
    """Any module: what is sparse is decided by the callback, what is on spheres by the optimizer."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch, index):
        """The loss."""
        x, y = batch
        return nn.functional.cross_entropy(self.network(x), y)

    def validation_step(self, batch, index):
        """Log the accuracy."""
        x, y = batch
        self.log("accuracy", (self.network(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        """LpSGD with a schedule of Lightning's."""
        groups = lp.param_groups(self, p=1.2, lr=0.02, other_lr=0.2)
        optimizer = lp.LpSGD(groups, momentum=0.9, nesterov=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


if __name__ == "__main__":
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    training = DataLoader(TensorDataset(x[:1400], y[:1400]), 64, shuffle=True, drop_last=True)
    validation = DataLoader(TensorDataset(x[1400:], y[1400:]), 397)
    trainer = lightning.Trainer(
        max_epochs=10,
        accelerator="cpu",
        callbacks=[SparseTraining("semi-pruning", sparsity=0.9)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Digits(), training, validation)
    shown = ("accuracy", "sparsity", "hoyer/network.0.weight")
    print(", ".join(f"{name} {float(trainer.callback_metrics[name]):.4f}" for name in shown))
