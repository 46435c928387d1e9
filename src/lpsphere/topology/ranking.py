"""Which connections go and come at an update: chosen exactly, among all layers that are ranked together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from lpsphere.memory import joined
from lpsphere.neurons import NeuronWeight
from lpsphere.topology.counts import Pool
from lpsphere.topology.exchange import Exchange, MaskExchange, PlaceExchange
from lpsphere.topology.growth import Best, Gradient
from lpsphere.topology.places import has_places
from lpsphere.topology.sharing import SharedSteps

__all__ = ["RankedExchanges"]


class RankedExchanges(SharedSteps):
    """Exchanges of connections by the scores and the budget of a method, which a subclass gives.

    The arguments are those of `SharedSteps`.

    Attributes:
        ranking: Whether connections compete within their "layer" or in the whole "network".
        min_fan_in: Connections that every neuron keeps.
    """

    regrows_dropped: ClassVar[bool] = True
    """Whether what an update drops may be grown back by it; the sparsity of such a method is constant."""
    grows_at_random: ClassVar[bool] = False
    """Whether its grow scores are uniform random numbers, which need not all be drawn where a layer is large."""

    ranking: str
    min_fan_in: int
    _starts: list[int]
    _goals: list[int]
    _counts: dict[str, int]

    @abstractmethod
    def drop_scores(self, neuron: NeuronWeight, mask: Tensor) -> Tensor:
        """Of each connection; the smallest are dropped."""

    @abstractmethod
    def grow_scores(self, neuron: NeuronWeight, gradient: Tensor) -> Tensor:
        """Of each weight; the largest magnitudes are grown."""

    @abstractmethod
    def new_weights(self, grow_scores: Tensor, grown: Tensor) -> Tensor | None:
        """Where new connections start."""

    @abstractmethod
    def budget(self, progress: float, pool: Pool, drop_scores: Tensor) -> tuple[int, int]:
        """How many units to drop and to grow."""

    def _exchange(self, gradients: list[Gradient | None]) -> tuple[dict[int, Exchange], float]:
        """What each layer, by index, gives up and gets, if it is not left alone; and the largest score dropped.

        Gradients are taken out of the list when they are no longer needed.
        """
        exchanges: dict[int, Exchange] = {}
        largest = 0.0
        for pool in self._pools():
            counts = self._count(pool)
            moving = [i for i in pool if gradients[i] is not None]
            if self.regrows_dropped and counts.active == counts.goal and moving != pool:
                if not moving:
                    continue
                pool, counts = moving, self._count(moving)  # the others, such as frozen ones, are left alone
                counts = replace(counts, goal=counts.active)
            those = [self._exchange_of(self.layers[i]) for i in pool]
            grows, dropped = self._drop(those, counts)
            self._grow(those, grows, pool, gradients)
            largest = max(largest, dropped)
            exchanges |= zip(pool, those, strict=True)
        return exchanges, largest if self._shards is None else self._shards.largest(largest)

    def _exchange_of(self, neuron: NeuronWeight) -> Exchange:
        kind = PlaceExchange if has_places(neuron) else MaskExchange
        return kind(self, neuron, self._fewest_in_group(neuron))

    def _drop(self, those: list[Exchange], counts: Pool) -> tuple[int, float]:
        """Choose what goes, of layers that are ranked together; how many are to be grown, and the largest score."""
        device = those[0].neuron.weight.device
        of_layers = []
        for exchange in those:
            of_layers.append(exchange.candidates().to(device))
            self._give_back()
        lengths, candidates = [len(scores) for scores in of_layers], joined(of_layers)
        del of_layers
        drops, grows = self.budget(self.schedule.progress(self._step), counts, candidates)
        dropped = self._lowest([exchange.neuron for exchange in those], candidates, lengths, drops)
        self._give_back()
        for exchange, chosen in zip(those, torch.split(dropped, lengths), strict=True):
            exchange.drop(chosen)
            self._give_back()
        return grows, float(candidates[dropped].max()) if dropped.any() else 0.0

    def _grow(self, those: list[Exchange], count: int, pool: list[int], gradients: list[Gradient | None]) -> None:
        """Choose what comes."""
        held = any(isinstance(exchange, PlaceExchange) for exchange in those)
        best = Best(count if held else 0, torch.float64 if self.grows_at_random else torch.float32)
        first = 0
        for i, exchange in zip(pool, those, strict=True):
            exchange.look(gradients[i], best, first)
            gradients[i] = None
            first += exchange.neuron.size
            self._give_back()
        device = those[0].neuron.weight.device
        of_layers = [-exchange.openings().to(device) for exchange in those]
        lengths = [len(scores) for scores in of_layers]
        grown = self._lowest([exchange.neuron for exchange in those], joined(of_layers), lengths, count)
        for exchange, chosen in zip(those, torch.split(grown, lengths), strict=True):
            exchange.grow(chosen)
        self._give_back()

    def _connections_of(self, neuron: NeuronWeight) -> int:
        if self._shards is not None:
            return self._counts[neuron.name]
        return neuron.weight.numel() if has_places(neuron) else int(self._mask(neuron).sum())

    def _pools(self) -> list[list[int]]:
        """The layers, by index, that are ranked together."""
        indices = list(range(len(self.layers)))
        return [indices] if self.ranking == "network" else [[i] for i in indices]

    def _count(self, pool: Sequence[int]) -> Pool:
        layers = [self.layers[i] for i in pool]
        return Pool(
            units=sum(self.granularity.units(neuron) for neuron in layers),
            active=sum(map(self._connections_of, layers)) // self.granularity.unit,
            fewest=sum(self.granularity.fewest(neuron, self.min_fan_in) for neuron in layers),
            start=sum(self._starts[i] for i in pool),
            goal=sum(self._goals[i] for i in pool),
        )

    def _fewest_in_group(self, neuron: NeuronWeight) -> int:
        """Units of a group that are never dropped; where a pattern is full at all times, growing restores it."""
        if self.regrows_dropped and self.granularity.pattern is not None:
            return 0
        return self.granularity.fewest_in_group(neuron, self.min_fan_in)
