"""A run in several processes: each takes its part of every batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn

__all__ = ["WHOLE", "Parts", "keep_names_plain"]


@dataclass(frozen=True)
class Parts:
    """Equal parts of every batch, one for each process, so that the mean of their gradients is that of the batch.

    Attributes:
        count: Processes.
        index: Which of them this is.
    """

    count: int
    index: int

    @property
    def patience(self) -> int:
        """Steps from one time that the processes ask each other whether to stop to the next."""
        return 1 if self.count == 1 else 10

    def check(self, batch_size: int) -> None:
        """See that a batch can be divided.

        Raises:
            ValueError: If not; the message says which size to choose.
        """
        if batch_size % self.count:
            nearest = max(self.count, batch_size // self.count * self.count)
            raise ValueError(
                f"batch_size={batch_size} does not divide over {self.count} processes: choose a multiple of "
                f"{self.count}, such as --batch-size {nearest}"
            )

    def first(self, rows: int) -> int:
        """The place of this process's first row in a batch."""
        return rows // self.count * self.index

    def of(self, rows: Tensor) -> Tensor:
        """This process's part of a batch."""
        return rows[self.first(len(rows)) :][: len(rows) // self.count]


WHOLE = Parts(1, 0)
"""All of a batch."""


def keep_names_plain(accelerator: Accelerator, model: nn.Module) -> None:
    """Save and load the model itself, not its wrapper, whose names would not fit another number of processes."""

    def before_saving(models: list[Any], weights: list[Any], folder: str) -> None:
        weights[:] = [model.state_dict()]

    def before_loading(models: list[Any], folder: str) -> None:
        models[:] = [model]

    if dist.is_available() and dist.is_initialized():  # with a wrapper also where there is one process
        accelerator.register_save_state_pre_hook(before_saving)
        accelerator.register_load_state_pre_hook(before_loading)
