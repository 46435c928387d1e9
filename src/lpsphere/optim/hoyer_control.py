"""Closed-loop control of p: every layer's Hoyer sparsity follows a target while the network trains.

Reads weights, writes the ``p`` of an `LpSGD`'s groups, by the optimizer's step hook; the theory of p (method,
section 3) is its model of what a change of p will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lpsphere.distributed import is_shared
from lpsphere.geometry import check_exponent
from lpsphere.metrics import connection_hoyer
from lpsphere.optim.lpsgd import LpSGD
from lpsphere.theory import expected_hoyer, p_for_hoyer

__all__ = ["ControlledLayer", "HoyerControl"]


@dataclass
class ControlledLayer:
    """One weight tensor under control.

    Attributes:
        index: Place of its group in ``optimizer.param_groups``.
        fan_in: Mean number of connections of its neurons at the last update, over those with two or more.
        measured: Its Hoyer sparsity then, mean over the same neurons, as in `lpsphere.summary`; None: there were none.
        lagged: m, the log(p - 1) that the weights had taken up by then.
        kept: The share of the old weights that the steps since then have kept.
    """

    index: int
    fan_in: float = 2.0
    measured: float | None = None
    lagged: float = 0.0
    kept: float = 1.0


class HoyerControl:
    r"""Sets the p of every layer, while it trains, so that its measured Hoyer sparsity follows a target.

    Per layer, on the scale x = log(p - 1), with H the measured sparsity, h the target, n the connections of a neuron
    and P = `lpsphere.theory.p_for_hoyer`::

        y <- log(P(H, n) - 1)                   what the weights look like
        r <- log(P(h, n) - 1)                   what they should look like
        m <- m + (1 - prod(1 - eta)) (x - m)    x as far as the weights have taken it up: a step keeps 1 - eta of them
        x <- m + gain (r - y)                   by at most max_change

    That is control by proportion and integral with the time constant of the weights themselves, in units of the
    learning rate, so that it suits every schedule; it leaves no error once the weights have settled, whatever the
    theory is wrong by. p starts at the theory's r. The weights must have the time to follow: the learning rates of all
    steps should add up to 5 or more. Under a method that drops the smallest weights H is that of the connections that
    are left, which is lower.

    Every weight on a sphere gets a group of its own in ``optimizer.param_groups``: make this before a learning-rate
    scheduler and before loading the optimizer's state. Copies of the optimizer are not under control.

    Args:
        optimizer: An `LpSGD` with weights on spheres.
        target: Hoyer's sparsity between 0 and 1, or a schedule: a function of the number of steps taken.
        every: Optimizer steps from one update to the next.
        gain: How strongly an error acts, positive; 1 leaves p alone but for what the theory was wrong by.
        max_change: Largest change of log(p - 1) at an update.
        limits: Smallest and largest p.

    Attributes:
        layers: The `ControlledLayer`s, in the order of the optimizer's groups.

    Raises:
        TypeError: If the optimizer is no `LpSGD`, or the target neither a number nor a function.
        ValueError: If an argument is out of its range, no weight is on a sphere, or groups with several weights have
            a scheduler already.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(32, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
        >>> optimizer = LpSGD([{"params": [model[0].weight]}], lr=0.02, p=1.5)
        >>> control = HoyerControl(optimizer, target=0.7)
        >>> round(optimizer.param_groups[0]["p"], 3)
        1.116
    """

    def __init__(
        self,
        optimizer: LpSGD,
        target: float | Callable[[int], float] = 0.7,
        *,
        every: int = 10,
        gain: float = 2.0,
        max_change: float = 0.1,
        limits: tuple[float, float] = (1.02, 10.0),
    ) -> None:
        if not isinstance(optimizer, LpSGD):
            raise TypeError(f"HoyerControl needs an LpSGD, whose p it sets; got {type(optimizer).__name__}")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a whole number of steps, at least 1; got {every!r}")
        for name, value in (("gain", gain), ("max_change", max_change)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        low, high = (check_exponent(limit, name="a limit of p") for limit in limits)
        if not low < high:
            raise ValueError(f"limits must be the smallest and the largest p, got {limits}")
        self.optimizer, self.every, self.gain, self.limits = optimizer, every, float(gain), (low, high)
        self.max_change = float(max_change)
        self._target = target
        self._step = 0
        _target_at(target, 0)
        _give_each_weight_a_group(optimizer)
        self.layers = [ControlledLayer(i) for i, group in enumerate(optimizer.param_groups) if group["p"] is not None]
        if not self.layers:
            raise ValueError("no weight of the optimizer is on a sphere: make its groups by param_groups(model, p=...)")
        if any(is_shared(self._group(layer)["params"][0]) for layer in self.layers):
            raise ValueError("HoyerControl measures whole layers, and these are sharded: use it without fully_shard")
        for layer in self.layers:
            self._measure(layer)
            start = self._theory(layer)
            layer.lagged = start - self.gain * self._error(layer)
            self._set(layer, start)
        self._handle = optimizer.register_step_post_hook(self._after_step)

    @property
    def target(self) -> float:
        """Hoyer's sparsity wanted now."""
        return _target_at(self._target, self._step)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs, in plain values; the p are in the optimizer's."""
        return {"step": self._step, "layers": [asdict(layer) for layer in self.layers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another left off; load the optimizer's state too, before or after.

        Raises:
            ValueError: If it controlled another number of layers.
        """
        layers = [ControlledLayer(**layer) for layer in state["layers"]]
        if [layer.index for layer in layers] != [layer.index for layer in self.layers]:
            raise ValueError(
                f"the state is of {len(layers)} layers, other than the {len(self.layers)} that this optimizer has on "
                "spheres: make the optimizer from the same model and rules"
            )
        self._step, self.layers = int(state["step"]), layers

    def detach(self) -> None:
        """Stop the control; every p stays as it is."""
        self._handle.remove()

    @torch.no_grad()
    def _after_step(self, optimizer: LpSGD, args: Any, kwargs: Any) -> None:
        self._step += 1
        for layer in self.layers:
            layer.kept *= 1 - float(self._group(layer)["lr"])
            if self._step % self.every == 0:
                self._update(layer)

    def _group(self, layer: ControlledLayer) -> dict[str, Any]:
        return self.optimizer.param_groups[layer.index]

    def _update(self, layer: ControlledLayer) -> None:
        self._measure(layer)
        x = math.log(self._group(layer)["p"] - 1)
        layer.lagged += (1 - layer.kept) * (x - layer.lagged)
        layer.kept = 1.0
        if layer.measured is None:
            return
        change = layer.lagged + self.gain * self._error(layer) - x
        self._set(layer, x + max(-self.max_change, min(change, self.max_change)))

    def _theory(self, layer: ControlledLayer) -> float:
        return _as_exponent(self.target, layer.fan_in)

    def _error(self, layer: ControlledLayer) -> float:
        if layer.measured is None:
            return 0.0
        return self._theory(layer) - _as_exponent(layer.measured, layer.fan_in)

    def _set(self, layer: ControlledLayer, x: float) -> None:
        self._group(layer)["p"] = max(self.limits[0], min(1 + math.exp(x), self.limits[1]))

    @torch.no_grad()
    def _measure(self, layer: ControlledLayer) -> None:
        group = self._group(layer)
        weight = group["params"][0]
        layout = self.optimizer.layout_of(weight, group)
        mask = self.optimizer.mask_of(weight)
        rows = layout.to_rows(weight.double())
        measured, counts = connection_hoyer(rows, layout.to_rows(layout.existing(weight) if mask is None else mask))
        layer.measured = None
        if len(measured):
            layer.fan_in, layer.measured = float(counts.double().mean()), float(measured.mean())


def _target_at(target: float | Callable[[int], float], step: int) -> float:
    value = target(step) if callable(target) else target
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"target must be Hoyer's sparsity, a number, or a function of the step; got {value!r}")
    if not 0 < value < 1:
        raise ValueError(f"target must be Hoyer's sparsity, strictly between 0 and 1; got {value} at step {step}")
    return float(value)


def _as_exponent(sparsity: float, fan_in: float) -> float:
    """log(p - 1) of the p at which the theory expects this sparsity, within the p that it is accurate for."""
    highest, lowest = expected_hoyer(1.0001, fan_in), expected_hoyer(50.0, fan_in)
    return math.log(p_for_hoyer(max(lowest, min(sparsity, highest)), fan_in) - 1)


def _give_each_weight_a_group(optimizer: LpSGD) -> None:
    groups = []
    for group in optimizer.param_groups:
        if group["p"] is None or len(group["params"]) == 1:
            groups.append(group)
            continue
        if "initial_lr" in group:
            raise ValueError(
                "HoyerControl gives every weight a group of its own, which a learning-rate scheduler would not follow: "
                "make it before the scheduler"
            )
        for i, param in enumerate(group["params"]):
            own = {**group, "params": [param]}
            if "param_names" in group:
                own["param_names"] = [group["param_names"][i]]
            groups.append(own)
    optimizer.param_groups[:] = groups
