"""How well a network does on some rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from lpsphere.data import Dataset
from lpsphere.metrics import summary
from lpsphere.training.checkpoints import load_model
from lpsphere.training.config import TrainConfig
from lpsphere.training.setup import load_data

__all__ = ["Scores", "evaluate", "evaluate_run", "final_scores", "outputs_of", "score_of"]

_ROWS = 2048


@dataclass(frozen=True)
class Scores:
    """Loss and score of a network on some rows.

    Attributes:
        loss: Mean cross-entropy in nats, or mean squared error in units of the training targets' variance.
        score: Accuracy in [0, 1], or the coefficient of determination R^2, at most 1.
    """

    loss: float
    score: float

    @classmethod
    def from_sums(cls, loss_sum: float, score_sum: float, count: int, y: Tensor, task: str) -> Scores:
        """From sums over ``count`` rows of losses and of `score_of`; ``y`` gives the variance for R^2."""
        if task == "regression":
            return cls(loss_sum / count, 1 + score_sum / count / float(y.double().var(unbiased=False)))
        return cls(loss_sum / count, score_sum / count)

    def named(self, task: str, target_std: float) -> dict[str, float]:
        """As entries of summary.json; the root mean squared error is in the target's own unit."""
        if task == "regression":
            rmse = math.sqrt(self.loss) * target_std
            return {"test_r2": self.score, "test_rmse": rmse, "test_loss": self.loss}
        return {"test_accuracy": self.score, "test_loss": self.loss}


def score_of(outputs: Tensor, y: Tensor, task: str) -> Tensor:
    """The number of right answers, or the negative sum of squared errors; a float64 scalar."""
    if task == "regression":
        return -(outputs.squeeze(-1) - y).double().square().sum()
    return (outputs.argmax(-1) == y).double().sum()


def evaluate(model: nn.Module, x: Tensor, y: Tensor, task: str) -> Scores:
    """Loss and score of ``model`` in evaluation mode; its mode is restored.

    Args:
        model: Maps (n, ...) to (n, outputs).
        x: Rows, shape (n, ...).
        y: Classes, or standardised targets; shape (n,).
        task: "classification" or "regression".
    """
    return _scores(outputs_of(model, x), y, task)


def final_scores(model: nn.Module, data: Dataset) -> dict[str, float]:
    """All scores of a network on the test rows, as entries of summary.json.

    Args:
        model: Maps (n, ...) to (n, outputs); evaluated in evaluation mode on the device it is on.
        data: The data.

    Returns:
        test_accuracy and test_loss; unless all rows are of one class, test_balanced_accuracy, the mean over the classes
        of the fraction of their rows that is right, and with two classes test_auc, the area under the ROC curve. For
        regression test_r2, test_rmse and test_loss.
    """
    device = next(model.parameters()).device
    outputs, y = outputs_of(model, data.x_test.to(device)), data.y_test.to(device)
    named = _scores(outputs, y, data.task).named(data.task, data.target_std)
    if data.task == "regression" or len(set(data.y_test.tolist())) < 2:
        return named
    classes = data.y_test.numpy()
    named["test_balanced_accuracy"] = float(balanced_accuracy_score(classes, outputs.argmax(-1).cpu().numpy()))
    if len(data.classes) == 2:
        named["test_auc"] = float(roc_auc_score(classes, (outputs[:, 1] - outputs[:, 0]).cpu().numpy()))
    return named


@torch.no_grad()
def outputs_of(model: nn.Module, x: Tensor) -> Tensor:
    """Outputs of ``model`` in evaluation mode, a few thousand rows at a time; its mode is restored.

    Args:
        model: Maps (n, ...) to (n, outputs).
        x: Rows, shape (n, ...).

    Returns:
        float32, or float64 from a model of that, shape (n, outputs).
    """
    training = model.training
    model.eval()
    outputs = torch.cat([model(rows) for rows in torch.split(x, _ROWS)])
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    model.train(training)
    return outputs


def _scores(outputs: Tensor, y: Tensor, task: str) -> Scores:
    if task == "regression":
        loss = functional.mse_loss(outputs.squeeze(-1).double(), y.double(), reduction="sum")
    else:
        loss = functional.cross_entropy(outputs.double(), y, reduction="sum")
    return Scores.from_sums(float(loss), float(score_of(outputs, y, task)), len(y), y, task)


def evaluate_run(folder: Path) -> dict[str, float]:
    """Evaluate the finished network of a run's folder on the test rows of its data.

    Returns:
        What `final_scores` says, sparsity and connections.

    Raises:
        FileNotFoundError: If the folder holds no finished run.
        ValueError: If its network does not fit its data.
    """
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{folder} holds no run: give a folder that lpsphere train wrote")
    config = TrainConfig.load(folder / "config.yaml")
    model = load_model(folder / "model.safetensors")
    data = load_data(config)
    try:
        scores = final_scores(model, data)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"the network of {folder} does not fit the data {data.name}: {error}") from error
    table = summary(model, include_last=config.include_last)
    return {
        **scores,
        "sparsity": table.sparsity,
        "connections": table.connections,
    }
