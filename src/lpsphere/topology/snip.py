"""SNIP: prune once, before training, by the sensitivity of the loss to each connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from lpsphere.distributed import as_shared, rows_of
from lpsphere.neurons import NeuronWeight, Rule
from lpsphere.topology.base import Pool, Topology
from lpsphere.topology.growth import Gradient
from lpsphere.topology.schedules import UpdateSchedule

__all__ = ["SNIP"]


class SNIP(Topology):
    r"""SNIP: of a dense network the connections of largest \|w g\| stay, g being the gradient before any weight moves.

    The gradients of the first ``batches`` steps are summed; during these steps no parameter moves, then all
    connections but the most salient go at once.

    Args:
        model: The model; `lpsphere.neurons.select` decides which weights are masked.
        optimizer: Any torch optimizer that trains them.
        sparsity: Target sparsity over the selected weights, in [0, 1).
        total_steps: Optimizer steps of the whole training, these first ones included.
        initial_sparsity: 0: dense; "keep" continues from zeros.
        batches: Steps whose gradients are summed.
        min_fan_in: Connections every neuron keeps.
        distribution: Densities of the layers, "uniform" or "erk", if they are ranked by "layer".
        granularity: "weight", a pattern such as "2:4" or a block such as "4x1".
        ranking: "network" as in the paper, or "layer".
        rules: As for `lpsphere.param_groups`.
        include_last: Mask the output layer too.
        seed: Seed of the random mask, if the initial sparsity is a number above 0.

    Raises:
        TypeError, ValueError: As the base's.

    Source: N. Lee et al., "SNIP: Single-shot network pruning based on connection sensitivity", ICLR 2019,
    arXiv:1810.02340.
    """

    replaces_step = True
    regrows_dropped = False
    needs_dense = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        sparsity: float,
        total_steps: int,
        initial_sparsity: float | Literal["keep"] = 0.0,
        batches: int = 1,
        min_fan_in: int = 0,
        distribution: str = "uniform",
        granularity: str = "weight",
        ranking: str = "network",
        rules: Sequence[Rule] | None = None,
        include_last: bool = False,
        seed: int = 0,
    ) -> None:
        if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
            raise ValueError(f"batches must be a whole number of at least 1, got {batches!r}")
        if isinstance(total_steps, int) and batches > total_steps:
            raise ValueError(f"batches={batches} is more than total_steps={total_steps}: nothing would ever be pruned")
        self.batches = batches
        self._sums: list[Tensor | None] | None = None
        self._summed = 0
        super().__init__(
            model,
            optimizer,
            sparsity=sparsity,
            total_steps=total_steps,
            initial_sparsity=initial_sparsity,
            min_fan_in=min_fan_in,
            distribution=distribution,
            granularity=granularity,
            ranking=ranking,
            rules=rules,
            include_last=include_last,
            seed=seed,
        )
        self.schedule = UpdateSchedule(first=1, last=batches, every=1)

    def _update(self, gradients: list[Gradient | None]) -> None:
        dense = cast("list[Tensor | None]", gradients)
        full = [g if g is None or g.dtype == torch.float64 else g.float() for g in dense]
        sums = full if self._sums is None else [_add(a, b) for a, b in zip(self._sums, full, strict=True)]
        self._sums, self._summed = sums, self._summed + 1
        self._overdue = self._summed < self.batches
        if not self._overdue:
            super()._update(list(sums))
            self._sums = None

    def budget(self, progress: float, pool: Pool, drop_scores: Tensor) -> tuple[int, int]:
        """All that is above the target goes at once."""
        return pool.active - pool.goal, 0

    def drop_scores(self, neuron: NeuronWeight, mask: Tensor) -> Tensor:
        """Saliency: the magnitude of weight times summed gradient; 0 where there is no gradient."""
        assert self._sums is not None
        gradient = self._sums[self.layers.index(neuron)]
        weight = neuron.weight.float()  # products in half precision underflow
        return torch.zeros_like(weight) if gradient is None else (weight * gradient).abs()

    def grow_scores(self, neuron: NeuronWeight, gradient: Tensor) -> Tensor:
        """All alike: nothing is grown."""
        return torch.zeros_like(gradient)

    def state_dict(self) -> dict[str, Any]:
        """As the base's, and the gradients summed so far."""
        sums = None
        if self._sums is not None:
            pairs = zip(self.layers, self._sums, strict=True)
            sums = [None if g is None else as_shared(g.clone(), n.parameter) for n, g in pairs]
        return {**super().state_dict(), "batches": self.batches, "sums": sums, "summed": self._summed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base's."""
        super().load_state_dict(state)
        self.batches, self._summed, self._sums = state["batches"], state["summed"], None
        if state["sums"] is not None:
            pairs = zip(self.layers, state["sums"], strict=True)
            self._sums = [g if g is None else rows_of(g, n.parameter).to(n.weight.device, copy=True) for n, g in pairs]


def _add(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other
