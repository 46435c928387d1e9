"""The mean of a network's weights over the last epochs of a run. Tensors in, tensors out; touches no file."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from lpsphere.topology import Topology, apply_masks
from lpsphere.training.config import TrainConfig

__all__ = ["new_average", "take_average"]


def new_average(
    config: TrainConfig, model: nn.Module, topology: Topology | None, steps_per_epoch: int
) -> AveragedModel | None:
    """Where the mean of the weights is kept; None for a run without.

    Raises:
        ValueError: If connections may still change within the epochs that are averaged.
    """
    if not config.average:
        return None
    begin = (config.epochs - config.average) * steps_per_epoch
    last = 0 if topology is None else topology.schedule.last
    if last > begin:
        raise ValueError(
            f"average={config.average} epochs begin after step {begin} of {config.epochs * steps_per_epoch}, but "
            f"connections change until step {last}: average fewer epochs, or let the method end earlier (end)"
        )
    return AveragedModel(model)


@torch.no_grad()
def take_average(model: nn.Module, average: AveragedModel, inputs: Iterable[Tensor]) -> None:
    """Put the mean of the weights in their place; batch-norm statistics are taken anew.

    Args:
        model: The network; its masks stay as they are.
        average: The mean.
        inputs: Batches to take the statistics from.
    """
    for weight, mean in zip(model.parameters(), average.module.parameters(), strict=True):
        weight.copy_(mean)
    apply_masks(model)
    update_bn(inputs, model)
