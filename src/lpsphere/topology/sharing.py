"""What a method needs where several processes train together: common counts, common random numbers, common masks.

With one process, or under DDP, where every process has all weights, nothing here asks another process but the one
comparison before training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from lpsphere.distributed import as_shared, ddp_wrappers, inner, processes, row_range
from lpsphere.neurons import NeuronWeight
from lpsphere.topology.agreement import check_agreement, keep_from_broadcast
from lpsphere.topology.granularity import Granularity
from lpsphere.topology.masks import buffer_name, lowest, skip
from lpsphere.topology.steps import MaskedSteps

__all__ = ["SharedSteps"]


class SharedSteps(MaskedSteps):
    """Masks that several processes hold together.

    Args:
        model: The model, inside its wrappers or not.
        optimizer: As for `MaskedSteps`.
        layers: As for `MaskedSteps`; all of them sharded by `fully_shard`, or none.
        granularity: What exists or not as one.
        seed: Seed of the random choices, the same in all processes.
    """

    evolves: ClassVar[bool] = True
    """Whether connections change during training."""

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, layers: list[NeuronWeight], granularity: Granularity, seed: int
    ) -> None:
        super().__init__(optimizer, layers)
        self.model, self.granularity = model, granularity
        self._generator = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Settings, masks and all else that every process must have alike."""
        raise NotImplementedError

    def total(self, count: int) -> int:
        """The sum of a count over the processes that share the layers; the count itself where each has all of them."""
        return self.totals([count])[0]

    def totals(self, counts: list[int]) -> list[int]:
        """As `total`, of several counts at once."""
        return counts if self._shards is None else self._shards.total(counts)

    def random(self, neuron: NeuronWeight, like: Tensor) -> Tensor:
        """Uniformly random numbers in [0, 1) for the weights of a layer, in the shape of ``like``.

        Where its rows are shared, every process draws those of all rows and takes its own: the same as one process.
        """
        rows, fan_in = row_range(neuron.parameter), neuron.fan_in
        before, after = (0, 0) if self._shards is None else (rows[0], neuron.neurons - rows[1])
        skip(before * fan_in, self._generator)
        numbers = torch.rand(like.shape, generator=self._generator).to(neuron.weight.device)
        skip(after * fan_in, self._generator)
        return numbers

    def _lowest(self, layers: Sequence[NeuronWeight], scores: Tensor, lengths: Sequence[int], count: int) -> Tensor:
        """The ``count`` smallest of the scores of layers, in all processes that share them; which of those here are.

        Args:
            layers: The layers.
            scores: Theirs, one layer after the other.
            lengths: How many each has.
            count: How many are chosen.
        """
        if self._shards is None:
            return lowest(scores, count)
        places, size = [], 0
        for neuron, length in zip(layers, lengths, strict=True):
            units = self.granularity.units(neuron)
            first = size + row_range(neuron.parameter)[0] * units // neuron.neurons
            places.append(torch.arange(first, first + length, device=scores.device))
            size += units
        return self._shards.lowest(scores, torch.cat(places), size, count)

    def _shared_mask(self, neuron: NeuronWeight) -> Tensor:
        """The mask, sharded as the parameter is."""
        return as_shared(self._mask(neuron), neuron.parameter)

    @property
    def _mask_names(self) -> list[str]:
        return [neuron.name.removesuffix(neuron.attribute) + buffer_name(neuron) for neuron in self._masked]

    def _join(self) -> None:
        if processes() == 1:
            return
        self._joined = True
        keep_from_broadcast(self.model, self._mask_names, True)
        self._compare(self.state_dict())

    def _compare(self, settings: dict[str, Any]) -> None:
        """See that all processes have the same masks and settings, which are what `state_dict` returns."""
        if processes() == 1:
            return
        if self._held and self.evolves:
            raise ValueError(
                f"{type(self).__name__} changes which weights {self._held[0].name} holds, which training in several "
                "processes cannot follow: use Static with sparse layers, or nn.Linear layers"
            )
        masks = settings.pop("masks")
        wrappers = ddp_wrappers(inner(self.model))
        group = self._shards.group if self._shards else wrappers[0][0].process_group if wrappers else None
        device = self.layers[0].weight.device
        check_agreement(type(self).__name__, settings, {} if self._shards else masks, device, group)
