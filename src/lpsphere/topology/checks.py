"""Checks of what a topology method is given; each error names the value and the remedy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch.optim.optimizer import Optimizer

from lpsphere.neurons import NeuronWeight
from lpsphere.topology.masks import fewest_connections

__all__ = ["check_feasible", "check_min_fan_in", "check_owned", "check_sparsity", "unwrap"]


def check_sparsity(name: str, value: object) -> float:
    """Return a sparsity as a float.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not in [0, 1).
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number in [0, 1), got {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1): the fraction of connections that are gone; got {value}")
    return float(value)


def check_min_fan_in(value: object) -> int:
    """Return the number of connections that every neuron keeps.

    Raises:
        ValueError: If it is not a whole number of at least 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"min_fan_in must be a whole number of at least 0, got {value!r}")
    return value


def check_feasible(layers: Sequence[NeuronWeight], sparsity: float, min_fan_in: int) -> None:
    """Refuse a target that leaves fewer than ``min_fan_in`` connections per neuron.

    Raises:
        ValueError: If it does, or if there are no layers.
    """
    if not layers:
        raise ValueError("no layer is left to make sparse: every selected weight has a rule with sparse=False")
    weights = sum(neuron.weight.numel() for neuron in layers)
    fewest = sum(fewest_connections(neuron, min_fan_in) for neuron in layers)
    left = round(weights * (1 - sparsity))
    if left < fewest:
        largest = math.floor((1 - fewest / weights) * 1e4) / 1e4
        raise ValueError(
            f"sparsity {sparsity:g} leaves {left:,} of {weights:,} connections, but {fewest:,} are needed so that each "
            f"neuron keeps {min_fan_in}: the largest feasible sparsity is {largest:.4f}. Choose that or less, or "
            "min_fan_in=0"
        )


def check_owned(layers: Sequence[NeuronWeight], optimizer: Optimizer) -> None:
    """Refuse an optimizer that lacks the weight of a layer.

    Raises:
        ValueError: If it does.
    """
    owned = {id(param) for group in optimizer.param_groups for param in group["params"]}
    missing = [neuron.name for neuron in layers if id(neuron.weight) not in owned]
    if missing:
        raise ValueError(
            f"the optimizer does not have {', '.join(missing[:5])}: build it from the same model, or leave the layers "
            "out with Rule(name, p=None, sparse=False)"
        )


def unwrap(optimizer: Any) -> Optimizer:
    """The torch optimizer inside wrappers such as Accelerate's, which have no step hooks of their own.

    Raises:
        TypeError: If there is none.
    """
    while not hasattr(optimizer, "_optimizer_step_pre_hooks") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"expected a torch optimizer, got {type(optimizer).__name__}")
    return optimizer
