"""For Lightning: a callback that attaches a topology method to the module in training. Needs the extra lightning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch.optim.optimizer import Optimizer

from lpsphere.integrations.methods import attach, find_method, hoyer_by_layer
from lpsphere.topology import Topology
from lpsphere.topology.masks import drop_mask

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "lpsphere.integrations.lightning needs Lightning: install it with pip install 'lpsphere[lightning]'",
        name=error.name,
    ) from error

__all__ = ["SparseTraining"]


class SparseTraining(Callback):
    """Trains a module with a topology method: attached when training starts, kept in checkpoints, ended with it.

    The optimizer is what the module's ``configure_optimizers`` returns, any that the method takes; for neurons on
    spheres an `lpsphere.LpSGD` of `lpsphere.param_groups`. Schedulers, precision, gradient clipping and accumulation
    and strategies are Lightning's own. Clipping sees the gradients of existing connections only.

    A checkpoint holds the method's state, masks included, among those of the callbacks; the module's ``state_dict``
    stays as it is without the callback, and ``trainer.fit(..., ckpt_path=...)`` goes on from it. When training is
    done, the module is left plain, with zeros where no connection is.

    Logged, with ``log``: ``sparsity`` and ``threshold`` (the largest score that was dropped) at every update, and at
    the end of every epoch ``hoyer/LAYER``, Hoyer's sparsity of each layer's connections, and their ``sparsity``.

    Attributes:
        topology: The method, from the start of training on; None before, and after its end.

    Args:
        method: "semi-pruning", "set", "rigl", "snip", "gmp", "static", or a `lpsphere.Topology` class.
        sparsity: Target sparsity over the selected weights, in [0, 1).
        total_steps: Optimizer steps of the whole training; None: as many as the trainer plans.
        optimizer: Which of the module's optimizers trains the weights, from 0.
        log: Whether to log.
        **settings: More arguments of the method, such as ``regrow=0.5`` or ``rules=[...]``.

    Raises:
        TypeError, ValueError: If the method is unknown or, when training starts, an argument is not allowed.

    Example:
        >>> trainer = Trainer(max_epochs=20, callbacks=[SparseTraining("semi-pruning", sparsity=0.95)])
    """

    def __init__(
        self,
        method: str | type[Topology] = "semi-pruning",
        *,
        sparsity: float = 0.9,
        total_steps: int | None = None,
        optimizer: int = 0,
        log: bool = True,
        **settings: Any,
    ) -> None:
        self.method = find_method(method)
        self.total_steps, self.optimizer, self.log = total_steps, optimizer, log
        self.settings = {"sparsity": sparsity, **settings}
        self.topology: Topology | None = None
        self._saved: dict[str, Any] | None = None
        self._told = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach the method; Lightning restores the optimizer's state after that."""
        if self.topology is not None:  # of a training that was interrupted
            self._remove(self.topology)
        optimizer = self._optimizer_of(trainer)
        total_steps = self._steps_of(trainer)

        def make() -> Topology:
            return self.method(pl_module, optimizer, total_steps=total_steps, **self.settings)

        self.topology = attach(make, pl_module, optimizer, self._saved)
        self._told, self._saved = len(self.topology.events), None

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Take from the gradients, before they are clipped, what belongs to no connection."""
        if self.topology is not None and optimizer is trainer.optimizers[self.optimizer]:
            self.topology.mask_grads()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the update that was."""
        assert self.topology is not None
        events = self.topology.events
        if self.log and len(events) > self._told:
            pl_module.log_dict({"sparsity": events[-1].sparsity, "threshold": events[-1].threshold})
        self._told = len(events)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the layers look like."""
        assert self.topology is not None
        if self.log:
            hoyer = {f"hoyer/{name}": value for name, value in hoyer_by_layer(self.topology).items()}
            pl_module.log_dict({"sparsity": self.topology.sparsity, **hoyer})

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """End the method, after the last checkpoint; an interrupted training keeps it."""
        if stage == "fit" and self.topology is not None and not trainer.interrupted:
            self.topology.finalize()
            self.topology = None

    def state_dict(self) -> dict[str, Any]:
        """The method's state."""
        return {} if self.topology is None else self.topology.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Keep a state for when training starts."""
        self._saved = dict(state_dict)

    def _optimizer_of(self, trainer: Trainer) -> Optimizer:
        if not 0 <= self.optimizer < len(trainer.optimizers):
            raise ValueError(
                f"optimizer={self.optimizer} is none of the {len(trainer.optimizers)} that configure_optimizers returns"
            )
        return trainer.optimizers[self.optimizer]

    def _steps_of(self, trainer: Trainer) -> int:
        steps = trainer.estimated_stepping_batches if self.total_steps is None else self.total_steps
        if math.isinf(steps):
            raise ValueError("training has no planned end: give SparseTraining total_steps, or Trainer max_epochs")
        return int(steps)

    def _remove(self, topology: Topology) -> None:
        """Leave the module without the method; its zeros stay."""
        topology.detach()
        for neuron in topology.layers:
            drop_mask(neuron)
        self.topology = None
