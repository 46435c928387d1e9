"""Training of a network on rows in memory: epochs, early stopping, and what must be kept to go on."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lpsphere.models import MLP
from lpsphere.neurons import select
from lpsphere.topology.masks import set_mask
from lpsphere.training.batches import batches
from lpsphere.training.config import TrainConfig
from lpsphere.training.learning_rate import SCHEDULES, set_learning_rates
from lpsphere.training.setup import make_optimizer, make_topology
from lpsphere.training.threads import threads_for

__all__ = ["History", "Rows", "Training", "auto_batch_size", "auto_epochs", "new_network", "put_masks"]

_RNG = threading.Lock()


@dataclass(frozen=True)
class Rows:
    """Rows to learn from.

    Attributes:
        x: float32, (n, features), standardised.
        y: int64 classes (n,), or float32 standardised targets (n, outputs).
        weight: float32 (n,), of mean 1; None: all alike.
    """

    x: Tensor
    y: Tensor
    weight: Tensor | None

    def __len__(self) -> int:
        """How many."""
        return len(self.x)


@dataclass
class History:
    """What happened: the mean loss of each epoch and, with early stopping, its score on the validation rows."""

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best: float | None = None


def auto_batch_size(rows: int) -> int:
    """A thirty-second of the rows, as a power of 2, but at least 64 and at most 1,024."""
    return min(rows, 1 << min(10, max(6, round(math.log2(rows / 32)))))


def auto_epochs(rows: int, steps_per_epoch: int) -> int:
    """Epochs that make rows / 2 optimizer steps, at most about 100 rows^(1/3) and at least 100; 10 epochs or more.

    Small tables are learnt by heart if training goes on: half a step a row is what suits them.
    """
    steps = max(100, min(rows / 2, 100 * math.pow(rows, 1 / 3)))
    return max(10, round(steps / steps_per_epoch))


def new_network(features: int, hidden: tuple[int, ...], outputs: int, seed: int) -> MLP:
    """A network with new weights that depend on the seed alone; torch's generator is left as it was."""
    with _RNG, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP(features, hidden, outputs)


def put_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Give a plain network its masks back, by parameter name."""
    for neuron in select(model):
        if neuron.name in masks:
            set_mask(neuron, masks[neuron.name])


class Training:
    """A network, its optimizer and the method that decides which connections exist.

    Args:
        config: Method, optimizer, rates and seed; those settings that name data or files are not looked at.
        model: The network.
        loss: From outputs (n, outputs) and targets to the loss of each row, shape (n,).
        total_steps: Optimizer steps of the whole training.
        more: Further arguments of the method, such as ``initial_sparsity="keep"``.

    Attributes:
        threads: For `using_threads` while it trains.

    Raises:
        TypeError, ValueError: If the method does not take a setting, or its value.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: MLP,
        loss: Callable[[Tensor, Tensor], Tensor],
        total_steps: int,
        **more: Any,
    ) -> None:
        self.config, self.model, self.loss, self.total_steps = config, model, loss, total_steps
        self.optimizer = make_optimizer(config, model)
        self.peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.topology = make_topology(config, model, self.optimizer, total_steps, **more)
        self.threads = threads_for(model, torch.zeros(1, model.in_features), config.batch_size)
        self.step = 0

    @property
    def sparsity(self) -> float:
        """Over the selected weights, by counting connections."""
        return 0.0 if self.topology is None else self.topology.sparsity

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks by parameter name, copied."""
        return {} if self.topology is None else {name: mask.clone() for name, mask in self.topology.masks.items()}

    def epoch(self, rows: Rows, number: int, factor: Callable[[float], float]) -> float:
        """One pass over the rows.

        Args:
            rows: The rows.
            number: Of the epoch, from 0: what the order of the rows depends on, beside the seed.
            factor: Learning rate, relative to its peak, from the fraction of training that is done.

        Returns:
            The mean loss.

        Raises:
            FloatingPointError: If it is not finite.
        """
        self.model.train()
        losses = []
        for taken in batches(len(rows), self.config.batch_size, self.config.seed, number):
            set_learning_rates(self.optimizer, self.peaks, factor(self.step / self.total_steps))
            loss = self.loss(self.model(rows.x[taken]), rows.y[taken])
            mean = loss.mean() if rows.weight is None else (loss * rows.weight[taken]).mean()
            torch.autograd.backward(mean)
            self.optimizer.step()
            self.optimizer.zero_grad()
            losses.append(mean.detach())
            self.step += 1
        total = float(torch.stack(losses).double().mean())
        if not math.isfinite(total):
            raise FloatingPointError(f"the training loss is {total}: training diverged. Lower lr or other_lr")
        return total

    def fit(
        self,
        rows: Rows,
        score: Callable[[], float] | None,
        patience: int,
        report: Callable[[History], None],
    ) -> History:
        """Train for the epochs of the configuration, or until the validation score rises no more.

        While connections still come and go, no epoch counts for early stopping, since the network has not the
        sparsity that was asked for. The best weights among those that count are put back; of equal ones the latest.

        Args:
            rows: The rows.
            score: The score on validation rows, for early stopping; None: without.
            patience: Epochs without a better score after which to stop.
            report: Called after every epoch.
        """
        history, best, waited = History(), None, 0
        begin = 0 if self.topology is None else self.topology.schedule.last
        for number in range(self.config.epochs):
            history.losses.append(self.epoch(rows, number, SCHEDULES[self.config.schedule]))
            if score is not None:
                history.scores.append(score())
            report(history)
            if score is None or self.step < begin:
                continue
            waited = 0 if history.best is None or history.scores[-1] > history.best else waited + 1
            if history.best is None or history.scores[-1] >= history.best:
                history.best, best = history.scores[-1], copy.deepcopy(self.model.state_dict())
            if waited >= patience:
                break
        if best is not None:
            self.model.load_state_dict(best)
        return history

    def state_dict(self) -> dict[str, Any]:
        """What going on needs beside the network."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "topology": None if self.topology is None else self.topology.state_dict(),
            "step": self.step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.topology is not None:
            self.topology.load_state_dict(state["topology"])
        self.step = state["step"]

    def finish(self) -> None:
        """Leave a plain network in evaluation mode."""
        if self.topology is not None:
            self.topology.finalize()
        self.model.eval()
