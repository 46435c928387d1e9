"""Gradual magnitude pruning: from dense to sparse by dropping the smallest weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from lpsphere.neurons import NeuronWeight, Rule
from lpsphere.topology.base import Pool, Topology
from lpsphere.topology.schedules import cubic

__all__ = ["GMP"]


class GMP(Topology):
    r"""Gradual magnitude pruning: the smallest \|w\| go, on a cubic schedule from the initial sparsity to the target.

    Args:
        model: The model; `lpsphere.neurons.select` decides which weights are masked.
        optimizer: Any torch optimizer that trains them.
        sparsity: Target sparsity over the selected weights, in [0, 1).
        total_steps: Optimizer steps of the whole training.
        initial_sparsity: Sparsity of the random mask at the start, 0: dense; "keep" continues from zeros.
        begin: Fraction of training at the first update.
        end: Fraction of training at the last update.
        every: Optimizer steps between updates; None: max(1, min(40, total_steps // 100)).
        min_fan_in: Connections every neuron keeps.
        distribution: Densities of the layers at the target, "uniform" or "erk"; a rule with ``sparsity`` fixes a
            layer's.
        granularity: "weight", a pattern such as "2:4" or a block such as "4x1".
        ranking: "layer" as in the paper, or "network".
        rules: As for `lpsphere.param_groups`.
        include_last: Mask the output layer too.
        seed: Seed of the random choices.

    Raises:
        TypeError, ValueError: As the base's.

    Source: M. Zhu, S. Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878.
    """

    regrows_dropped = False
    needs_dense = True
    uses_gradient = False

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        sparsity: float,
        total_steps: int,
        initial_sparsity: float | Literal["keep"] = 0.0,
        begin: float = 0.0,
        end: float = 0.75,
        every: int | None = None,
        min_fan_in: int = 0,
        distribution: str = "uniform",
        granularity: str = "weight",
        ranking: str = "layer",
        rules: Sequence[Rule] | None = None,
        include_last: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            model,
            optimizer,
            sparsity=sparsity,
            total_steps=total_steps,
            initial_sparsity=initial_sparsity,
            begin=begin,
            end=end,
            every=every,
            min_fan_in=min_fan_in,
            distribution=distribution,
            granularity=granularity,
            ranking=ranking,
            rules=rules,
            include_last=include_last,
            seed=seed,
        )

    def budget(self, progress: float, pool: Pool, drop_scores: Tensor) -> tuple[int, int]:
        """What the cubic schedule asks to drop; nothing is grown."""
        return max(0, pool.active - max(round(cubic(pool.start, pool.goal, progress)), pool.fewest)), 0

    def drop_scores(self, neuron: NeuronWeight, mask: Tensor) -> Tensor:
        """The magnitudes of the weights."""
        return neuron.weight.abs()

    def grow_scores(self, neuron: NeuronWeight, gradient: Tensor) -> Tensor:
        """All alike: nothing is grown."""
        return torch.zeros_like(gradient)
