"""Semi-pruning with threshold adaptation (method, section 4): drop the relatively weak, regrow a part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from lpsphere.geometry import lp_norm, row_sums, spread
from lpsphere.neurons import NeuronWeight, Rule
from lpsphere.topology.base import Pool, Topology
from lpsphere.topology.checks import check_choice, check_fraction
from lpsphere.topology.schedules import cubic, half_cosine

__all__ = ["SemiPruning"]

_RHO = 0.95
_DELTA = 0.1
_SETTINGS = ("adaptation", "regrow", "grow_init")


class SemiPruning(Topology):
    r"""Drops the connections of smallest relative magnitude and regrows a part where the gradient is largest.

    At an update each connection's |w| is compared with the mean over its neuron's connections; the weakest of the
    whole network are dropped, and where \|g\|, scaled per neuron to unit root mean square, is largest among those
    that were inactive, a part as many is grown. Each layer finds its own density.

    Args:
        model: The model; `lpsphere.neurons.select` decides which weights are masked.
        optimizer: Any torch optimizer that trains them, such as `lpsphere.LpSGD`.
        sparsity: Target sparsity over the selected weights, in [0, 1).
        total_steps: Optimizer steps of the whole training.
        initial_sparsity: Sparsity of the random mask at the start, capped at the target; "keep" continues from zeros.
        begin: Fraction of training at the first update.
        end: Fraction of training at the last update; from there on the connections stay.
        every: Optimizer steps between updates; None: max(1, min(40, total_steps // 100)).
        regrow: Fraction of the connections regrown at the first update; falls to 0 by a half cosine ("exact").
        min_fan_in: Connections every neuron keeps.
        adaptation: "exact" follows a cubic schedule and ends at the target for every p; "paper" moves threshold and
            regrowth as the authors do, and misses the target where p is not small.
        distribution: Densities of the layers in the initial mask, "uniform" or "erk".
        grow_init: Dual weight at which new connections start, against the gradient, in units of their neuron's mean
            |v|.
        drop_fraction: First threshold on the relative magnitude; falls to 0 by a half cosine ("paper").
        granularity: "weight", a pattern such as "2:4" or a block such as "4x1".
        rules: As for `lpsphere.param_groups`; a rule with ``sparse=False`` leaves a layer dense.
        include_last: Mask the output layer too.
        seed: Seed of the initial mask.

    Raises:
        TypeError, ValueError: If an argument is out of range, the target leaves fewer than ``min_fan_in`` connections
            per neuron, the model has masks already, or the optimizer lacks a selected weight.

    Source: arXiv:2103.16013 for the method and adaptation "paper"; adaptation "exact" is this project's (method,
    section 4).
    """

    regrows_dropped = False

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        sparsity: float,
        total_steps: int,
        initial_sparsity: float | Literal["keep"] = 0.2,
        begin: float = 0.2,
        end: float = 0.8,
        every: int | None = None,
        regrow: float = 0.3,
        min_fan_in: int = 1,
        adaptation: Literal["exact", "paper"] = "exact",
        distribution: str = "uniform",
        grow_init: float = 0.0,
        drop_fraction: float = 0.2,
        granularity: str = "weight",
        rules: Sequence[Rule] | None = None,
        include_last: bool = False,
        seed: int = 0,
    ) -> None:
        if not 0 <= grow_init < math.inf:
            raise ValueError(f"grow_init must be at least 0 and finite, got {grow_init}")
        self.regrow, self.grow_init = check_fraction("regrow", regrow), grow_init
        self.adaptation = check_choice("adaptation", adaptation, ("exact", "paper"))
        self._rho = _RHO
        super().__init__(
            model,
            optimizer,
            sparsity=sparsity,
            total_steps=total_steps,
            initial_sparsity=initial_sparsity,
            begin=begin,
            end=end,
            every=every,
            drop_fraction=drop_fraction,
            min_fan_in=min_fan_in,
            distribution=distribution,
            granularity=granularity,
            ranking="network",
            rules=rules,
            include_last=include_last,
            seed=seed,
        )

    def budget(self, progress: float, pool: Pool, drop_scores: Tensor) -> tuple[int, int]:
        """What to drop and to grow: METHOD's counts, which are feasible in every state."""
        if self.adaptation == "paper":
            return self._paper_budget(progress, pool, drop_scores)
        target = pool.at(cubic(self.initial_sparsity, self.target, progress))
        allowed = round(half_cosine(self.regrow, progress) * pool.active)
        grown = max(0, target - pool.active, min(allowed, pool.units - pool.active, target - pool.fewest))
        return pool.active + grown - target, grown

    def _paper_budget(self, progress: float, pool: Pool, drop_scores: Tensor) -> tuple[int, int]:
        threshold = half_cosine(self.drop_fraction, progress)
        dropped = self.total(int((drop_scores < threshold).sum()))
        grown = min(round(self._rho * dropped), pool.units - pool.active)
        sparsity = 1 - (pool.active - dropped + grown) / pool.units
        if self.target > 0:
            step = -_DELTA if sparsity < self.target * (1 - threshold / 2) else _DELTA
            self._rho = (1 + step) * sparsity / self.target
        return dropped, grown

    def drop_scores(self, neuron: NeuronWeight, mask: Tensor) -> Tensor:
        """Relative magnitude: |w| over the mean of its neuron's connections."""
        weight, active = neuron.layout.split(neuron.weight.float()), neuron.layout.split(mask)
        dims = neuron.layout.fan_in_dims(mask)
        size = weight.abs()
        mean = row_sums(size, dims) / row_sums(active.float(), dims).clamp(min=1)
        return (size / spread(torch.where(mean == 0, torch.ones_like(mean), mean), dims)).reshape(mask.shape)

    def grow_scores(self, neuron: NeuronWeight, gradient: Tensor) -> Tensor:
        """|g| of each neuron scaled to unit root mean square; the sign is kept for `new_weights`."""
        split, dims = neuron.layout.split(gradient.float()), neuron.layout.fan_in_dims(gradient)
        rms = lp_norm(split, 2.0, dim=dims, keepdim=True) / neuron.fan_in**0.5
        return (split / torch.where(rms == 0, torch.ones_like(rms), rms)).reshape(gradient.shape)

    def new_weights(self, grow_scores: Tensor, grown: Tensor) -> Tensor | None:
        """Against the gradient's sign, ``grow_init`` times the mean |v| of the neuron."""
        if self.grow_init == 0:
            return None
        return torch.where(grown, -grow_scores.sign() * self.grow_init, torch.zeros_like(grow_scores))

    def state_dict(self) -> dict[str, Any]:
        """As the base's, and this method's settings and the regrowth ratio of adaptation "paper"."""
        settings = {name: getattr(self, name) for name in _SETTINGS}
        return {**super().state_dict(), **settings, "rho": self._rho}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base's."""
        super().load_state_dict(state)
        self._rho = state["rho"]
        for name in _SETTINGS:
            setattr(self, name, state[name])
