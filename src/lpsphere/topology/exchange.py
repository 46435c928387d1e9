"""What one layer gives up and gets at an update, whether it is dense behind a mask or holds only its connections.

An exchange goes in steps: candidates to drop -> those that are dropped -> openings -> those that are grown. Which are
chosen, among all layers that are ranked together, is decided by `base.py`; ties go to what comes first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from lpsphere.neurons import NeuronWeight
from lpsphere.topology.granularity import Granularity
from lpsphere.topology.growth import Gradient, Grower, absent_from, best_openings
from lpsphere.topology.masks import get_mask, top_of_group
from lpsphere.topology.places import places_of

__all__ = ["Exchange", "MaskExchange", "PlaceExchange"]


class Method(Grower, Protocol):
    """What a method says about an exchange."""

    regrows_dropped: ClassVar[bool]
    granularity: Granularity

    def drop_scores(self, neuron: NeuronWeight, mask: Tensor) -> Tensor:
        """Of each connection."""

    def new_weights(self, grow_scores: Tensor, grown: Tensor) -> Tensor | None:
        """Where new connections start."""


class Exchange(ABC):
    """The exchange of one layer.

    Args:
        method: Scores connections and openings.
        neuron: The layer.
        fewest: Units of each group that are never dropped.

    Attributes:
        starts: Where new connections start, in units of their neuron's mean |v|, in the shape of the new weight; None:
            at 0.
    """

    def __init__(self, method: Method, neuron: NeuronWeight, fewest: int) -> None:
        self.method, self.neuron, self.fewest = method, neuron, fewest
        self.starts: Tensor | None = None

    @abstractmethod
    def candidates(self) -> Tensor:
        """Scores of what may be dropped, shape (candidates,)."""

    @abstractmethod
    def drop(self, chosen: Tensor) -> None:
        """Drop the chosen candidates, bool."""

    @abstractmethod
    def openings(self, gradient: Gradient | None, count: int) -> Tensor:
        """Scores of where it could grow, shape (openings,): of all openings, or at least of the ``count`` best."""

    @abstractmethod
    def grow(self, chosen: Tensor) -> None:
        """Grow the chosen openings, bool."""


class MaskExchange(Exchange):
    """The exchange of a dense weight with a mask, in units of the granularity.

    Attributes:
        mask: The mask, in the shape of the weight: the new one when all is done.
    """

    def __init__(self, method: Method, neuron: NeuronWeight, fewest: int) -> None:
        super().__init__(method, neuron, fewest)
        mask = get_mask(neuron)
        assert mask is not None
        self.before = self.mask = mask

    def candidates(self) -> Tensor:
        """Scores of the units outside each group's fewest largest."""
        grid = self.method.granularity.grid
        self._active = grid(self.neuron, self.mask)
        size = grid(self.neuron, self.method.drop_scores(self.neuron, self.mask).float())
        self._free = self._active & ~top_of_group(size, self._active, self.fewest)
        return size[self._free]

    def drop(self, chosen: Tensor) -> None:
        """Drop units."""
        self._kept = self._active & ~_entries(chosen, self._free)

    def openings(self, gradient: Gradient | None, count: int) -> Tensor:
        """Scores of all openings."""
        weight, pattern = self.neuron.weight, self.method.granularity.pattern
        assert gradient is None or isinstance(gradient, Tensor)
        scores = torch.zeros_like(weight) if gradient is None else self.method.grow_scores(self.neuron, gradient)
        appeal = self.method.granularity.grid(self.neuron, scores.float().abs())
        self._open = ~(self._kept if self.method.regrows_dropped else self._active)
        if self.method.regrows_dropped and pattern is not None:
            self._open = top_of_group(appeal, self._open, pattern[0] - self._kept.sum(1))
        self._scores = scores
        return appeal[self._open]

    def grow(self, chosen: Tensor) -> None:
        """Grow units."""
        self.mask = self.method.granularity.spread(self.neuron, self._kept | _entries(chosen, self._open))
        self.starts = self.method.new_weights(self._scores, self.mask & ~self.before)


class PlaceExchange(Exchange):
    """The exchange of a layer that holds only its connections; nothing of dense size is made.

    Attributes:
        places: The places of its connections, ascending: the new ones when all is done.
    """

    def __init__(self, method: Method, neuron: NeuronWeight, fewest: int) -> None:
        super().__init__(method, neuron, fewest)
        self.before = self.places = places_of(neuron)

    def candidates(self) -> Tensor:
        """Scores of the connections outside each neuron's fewest largest."""
        mask = torch.ones_like(self.neuron.weight, dtype=torch.bool)
        size = self.method.drop_scores(self.neuron, mask).float()
        self._free = ~_top_of_rows(size, self.places // self.neuron.fan_in, self.fewest)
        return size[self._free]

    def drop(self, chosen: Tensor) -> None:
        """Drop connections."""
        self._kept = self.places[~_entries(chosen, self._free)]

    def openings(self, gradient: Gradient | None, count: int) -> Tensor:
        """Scores of the ``count`` best."""
        taken = self._kept if self.method.regrows_dropped else self.before
        self._places, self._scores = best_openings(self.method, self.neuron, gradient, count, taken)
        return self._scores.abs()

    def grow(self, chosen: Tensor) -> None:
        """Grow connections."""
        grown, scores = self._places[chosen], self._scores[chosen]
        self.places, order = torch.cat([self._kept, grown]).sort()
        values = torch.cat([torch.zeros(len(self._kept)).to(scores), scores])[order]
        self.starts = self.method.new_weights(values, absent_from(self.places, self.before))
        del (
            self.before,
            self._free,
            self._kept,
            self._places,
            self._scores,
        )  # the exchanges of all layers exist at a time


def _entries(chosen: Tensor, among: Tensor) -> Tensor:
    """A choice among the True entries of a mask, as a mask."""
    return torch.zeros_like(among).masked_scatter_(among, chosen.to(among.device))


def _top_of_rows(scores: Tensor, rows: Tensor, count: int) -> Tensor:
    """The ``count`` largest scores of each row, bool, ties to what comes first; ``rows`` ascend."""
    if count == 0 or not len(scores):
        return torch.zeros_like(scores, dtype=torch.bool)
    order = scores.argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    starts = torch.searchsorted(rows, rows)  # where the row of each entry begins
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(0, order, torch.arange(len(rows)) - starts < count)
