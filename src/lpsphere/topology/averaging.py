"""Weight averaging of masked models: what ``torch.optim.swa_utils.AveragedModel`` needs for bool buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim.swa_utils import get_swa_multi_avg_fn

__all__ = ["masked_average"]

Average = Callable[[Any, Any, Any], None]


def masked_average(multi_avg_fn: Average | None = None) -> Average:
    """An averaging function that copies masks, for ``AveragedModel(model, multi_avg_fn=..., use_buffers=True)``.

    torch averages every buffer by arithmetic, which bool tensors do not have and integers, such as the number of
    batches that a batch norm has seen, do not survive: both are copied. Averaged over changes of the topology,
    weights outside the newest mask may be other than 0: `lpsphere.apply_masks` sets them to 0.

    Args:
        multi_avg_fn: How floating-point tensors are averaged, such as ``get_ema_multi_avg_fn(0.999)``; None: equally.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=masked_average(), use_buffers=True)
        >>> averaged.update_parameters(model)
    """
    average: Average = get_swa_multi_avg_fn() if multi_avg_fn is None else multi_avg_fn  # type: ignore[no-untyped-call]

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        if averaged[0].is_floating_point() or averaged[0].is_complex():
            average(averaged, current, count)
            return
        for old, new in zip(averaged, current, strict=True):
            old.copy_(new)

    return update
