"""A static random mask: the connections that exist at the start are those of the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from lpsphere.neurons import NeuronWeight, Rule
from lpsphere.topology.base import Topology
from lpsphere.topology.schedules import UpdateSchedule

__all__ = ["Static"]


class Static(Topology):
    """A mask that never changes: random, or what is there, such as for fine-tuning a network that is sparse already.

    Args:
        model: The model; `lpsphere.neurons.select` decides which weights are masked.
        optimizer: Any torch optimizer that trains them.
        sparsity: Sparsity over the selected weights, in [0, 1).
        total_steps: Optimizer steps of the whole training.
        initial_sparsity: None: a random mask; "keep": the connections whose weights are not zero, or that existing
            masks allow, which must then be as many as ``sparsity`` says.
        min_fan_in: Connections every neuron of the random mask has.
        distribution: Densities of the layers, "uniform" or "erk"; a rule with ``sparsity`` fixes a layer's.
        granularity: "weight", a pattern such as "2:4" or a block such as "4x1".
        rules: As for `lpsphere.param_groups`.
        include_last: Mask the output layer too.
        seed: Seed of the random mask.

    Raises:
        TypeError, ValueError: As the base's, or if what is kept has another sparsity.
    """

    uses_gradient = False
    evolves = False

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        sparsity: float,
        total_steps: int,
        initial_sparsity: Literal["keep"] | None = None,
        min_fan_in: int = 0,
        distribution: str = "uniform",
        granularity: str = "weight",
        rules: Sequence[Rule] | None = None,
        include_last: bool = False,
        seed: int = 0,
    ) -> None:
        if initial_sparsity not in (None, "keep"):
            raise ValueError(
                f'a static mask stays as it is: leave initial_sparsity={initial_sparsity!r} out, or pass "keep"; GMP '
                "goes from dense to sparse"
            )
        super().__init__(
            model,
            optimizer,
            sparsity=sparsity,
            total_steps=total_steps,
            initial_sparsity=initial_sparsity,
            min_fan_in=min_fan_in,
            distribution=distribution,
            granularity=granularity,
            rules=rules,
            include_last=include_last,
            seed=seed,
        )
        self.schedule = UpdateSchedule(first=0, last=0, every=1)

    def check_start(self, sparsity: float) -> None:
        """It must be the target."""
        if sum(self._starts) != sum(self._goals):
            raise ValueError(
                f'initial_sparsity="keep" finds sparsity {sparsity:.10g}, which a static mask cannot change to '
                f"{self.target:g}: pass sparsity={sparsity:.10g}, or use a method that evolves"
            )

    def drop_scores(self, neuron: NeuronWeight, mask: Tensor) -> Tensor:
        """Never asked for."""
        raise NotImplementedError

    def grow_scores(self, neuron: NeuronWeight, gradient: Tensor) -> Tensor:
        """Never asked for."""
        raise NotImplementedError
