"""Checks of what a topology method is given; each error names the value and the remedy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from lpsphere.neurons import NeuronWeight, SegmentLayout
from lpsphere.topology.granularity import Granularity

__all__ = [
    "check_choice",
    "check_feasible",
    "check_fraction",
    "check_min_fan_in",
    "check_owned",
    "check_rules",
    "check_saved",
    "check_sparse_layers",
    "check_sparsity",
    "unwrap",
]

_REFUSED: dict[type[Optimizer], str] = {
    torch.optim.LBFGS: "evaluates the model several times a step and keeps a history that masks do not reach",
    torch.optim.SparseAdam: "takes sparse gradients, but those of masked weights are dense",
}


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


def check_fraction(name: str, value: float) -> float:
    """Return a fraction.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not in [0, 1].
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number in [0, 1], got {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")
    return value


def check_choice(name: str, value: str, allowed: Sequence[str]) -> str:
    """Return one of a few words.

    Raises:
        ValueError: If it is none of them.
    """
    if value not in allowed:
        words = " or ".join(f'"{word}"' for word in allowed)
        raise ValueError(f"{name} must be {words}, got {value!r}")
    return value


def check_min_fan_in(value: object) -> int:
    """Return the number of connections that every neuron keeps.

    Raises:
        ValueError: If it is not a whole number of at least 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"min_fan_in must be a whole number of at least 0, got {value!r}")
    return value


def check_feasible(layers: list[NeuronWeight], granularity: Granularity, sparsity: float, min_fan_in: int) -> None:
    """Refuse a target that leaves fewer than ``min_fan_in`` connections per neuron.

    Raises:
        ValueError: If it does, if there are no layers, or if the granularity does not fit.
    """
    if not layers:
        raise ValueError("no layer is left to make sparse: every selected weight has a rule with sparse=False")
    granularity.check(layers, sparsity, min_fan_in)
    weights = sum(neuron.size for neuron in layers)
    fewest = sum(granularity.fewest(neuron, min_fan_in) for neuron in layers) * granularity.unit
    left = round(weights / granularity.unit * (1 - sparsity)) * granularity.unit
    if left < fewest:
        largest = math.floor((1 - fewest / weights) * 1e4) / 1e4
        raise ValueError(
            f"sparsity {sparsity:g} leaves {left:,} of {weights:,} connections, but {fewest:,} are needed so that each "
            f"neuron keeps {min_fan_in}: the largest feasible sparsity is {largest:.4f}. Choose that or less, or "
            "min_fan_in=0"
        )


def check_rules(layers: Sequence[NeuronWeight], ranking: str, method: str) -> None:
    """Refuse rules that fix a layer's sparsity where layers compete with each other.

    Raises:
        ValueError: If there are any.
    """
    fixed = [n.rule for n in layers if n.rule is not None and n.rule.sparsity is not None]
    if fixed and ranking == "network":
        raise ValueError(
            f"{fixed[0]} fixes a sparsity, but {method} ranks the connections of the whole network, so that each layer "
            'finds its own: leave sparsity out of the rule, or pass ranking="layer" where the method takes it'
        )


def check_sparse_layers(layers: Sequence[NeuronWeight], granularity: Granularity, method: str, dense: bool) -> None:
    """Refuse layers that hold only their connections where more is needed.

    Args:
        layers: The layers.
        granularity: What exists or not as one.
        method: The method's name.
        dense: Whether it needs the weights of a dense network.

    Raises:
        ValueError: If it does, or if it is not single weights that come and go.
    """
    held = [neuron.name for neuron in layers if isinstance(neuron.layout, SegmentLayout)]
    if held and dense:
        raise ValueError(
            f"{method} chooses among the weights of a dense network, and {held[0]} holds only its connections: use "
            f"SemiPruning, RigL, SET or Static with it, or give {method} nn.Linear layers and make them sparse "
            "afterwards with SparseLinear.from_dense"
        )
    if held and granularity != Granularity():
        raise ValueError(
            f'granularity "{granularity}" needs dense weights with masks, and {held[0]} holds only its connections: '
            'leave it at "weight", or use nn.Linear layers'
        )


def check_saved(state: dict[str, Any], method: str, shapes: dict[str, tuple[Any, ...]]) -> None:
    """Refuse a saved state of another method or another network, or one without masks.

    Args:
        state: The state.
        method: The name of the method that takes it.
        shapes: The shapes of its masks; the numbers of neurons and weights where only connections are held, and "held".

    Raises:
        ValueError: If it is one.
    """
    if state.get("method") != method:
        raise ValueError(
            f"the saved topology is {state.get('method')}'s, this is {method}: build the same, and give it what its "
            "own state_dict() returned"
        )
    if not isinstance(state.get("masks"), dict):
        raise ValueError(
            "the saved topology has no masks: give it what state_dict() returned. Without one, load the model and "
            'attach the method with initial_sparsity="keep"'
        )
    saved = {name: _shape(mask) for name, mask in state["masks"].items()}
    if saved != shapes:
        differing = sorted(set(saved.items()) ^ set(shapes.items()), key=str)[:4]
        raise ValueError(
            f"the saved masks are those of another network or selection; they differ in {differing}: build the same "
            "network, and give the method the same rules and include_last"
        )


def _shape(saved: Any) -> tuple[Any, ...]:
    return tuple(saved.shape) if isinstance(saved, Tensor) else (*saved["shape"], "held")


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
        TypeError: If there is none, or one that cannot train masked weights.
    """
    while not hasattr(optimizer, "_optimizer_step_pre_hooks") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    optimizer = getattr(optimizer, "spheres", optimizer)  # of one that leaves the rest to another optimizer
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"expected a torch optimizer, got {type(optimizer).__name__}")
    for refused, why in _REFUSED.items():
        if isinstance(optimizer, refused):
            raise TypeError(
                f"{type(optimizer).__name__} {why}: use LpSGD, SGD, AdamW or another optimizer of torch.optim"
            )
    return optimizer
