"""Learning rates over training, relative to their peak: functions of the fraction of training that is done."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch.optim.optimizer import Optimizer

__all__ = ["SCHEDULES", "constant", "cosine", "piecewise", "set_learning_rates"]

_KNOTS = (0.0, 1 / 6, 1 / 3, 1 - 3 / 50, 1.0)
_FACTORS = (0.02, 1.0, 0.25, 0.002, 0.0001)
_WARM_UP = 0.05


def piecewise(progress: float) -> float:
    """The authors' schedule, linear between 0.02 at the start, 1 at 1/6, 0.25 at 1/3, 0.002 at 0.94, 0.0001 at the end.

    Source: method, section 5.
    """
    return float(np.interp(progress, _KNOTS, _FACTORS))


def cosine(progress: float) -> float:
    """A linear warm-up over the first 5 %, then a half cosine to 0."""
    if progress < _WARM_UP:
        return progress / _WARM_UP
    return (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP))) / 2


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


SCHEDULES: Mapping[str, Callable[[float], float]] = {"piecewise": piecewise, "cosine": cosine, "constant": constant}


def set_learning_rates(optimizer: Optimizer, peaks: Sequence[float], factor: float) -> None:
    """Give each parameter group ``factor`` times its peak."""
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak * factor
