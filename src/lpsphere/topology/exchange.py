"""What one layer gives up and gets at an update, whether it is dense behind a mask or holds only its connections.

An exchange goes in steps: candidates to drop -> those that are dropped -> a look at the gradient -> openings -> those
that are grown. Which are chosen, among all layers that are ranked together, is decided by `base.py`; ties go to what
comes first. Between the steps an exchange keeps little, since those of all layers exist at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from lpsphere.neurons import NeuronWeight
from lpsphere.topology.granularity import Granularity
from lpsphere.topology.growth import Best, Gradient, Grower, offer_openings
from lpsphere.topology.masks import get_mask, top_of_group
from lpsphere.topology.places import Reconnection, layer_of, places_of

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
    """

    def __init__(self, method: Method, neuron: NeuronWeight, fewest: int) -> None:
        self.method, self.neuron, self.fewest = method, neuron, fewest

    @abstractmethod
    def candidates(self) -> Tensor:
        """Scores of what may be dropped, shape (candidates,)."""

    @abstractmethod
    def drop(self, chosen: Tensor) -> None:
        """Drop the chosen candidates, bool."""

    @abstractmethod
    def look(self, gradient: Gradient | None, best: Best, first: int) -> None:
        """Look where it could grow.

        Args:
            gradient: The gradient of the layer; None: there is none.
            best: Is offered the openings of layers that hold only their connections, one layer after the other.
            first: What is added to their places there.
        """

    @abstractmethod
    def openings(self) -> Tensor:
        """Scores of where it could grow, shape (openings,): of all openings, or of those that are among the best."""

    @abstractmethod
    def grow(self, chosen: Tensor) -> None:
        """Grow the chosen openings, bool."""


class MaskExchange(Exchange):
    """The exchange of a dense weight with a mask, in units of the granularity.

    Attributes:
        mask: The mask, in the shape of the weight: the new one when all is done.
        starts: Where new connections start, in units of their neuron's mean |v|, in the shape of the weight; None: at
            0.
    """

    def __init__(self, method: Method, neuron: NeuronWeight, fewest: int) -> None:
        super().__init__(method, neuron, fewest)
        mask = get_mask(neuron)
        assert mask is not None
        self.before = self.mask = mask
        self.starts: Tensor | None = None

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

    def look(self, gradient: Gradient | None, best: Best, first: int) -> None:
        """Score all openings; ``best`` is not needed."""
        weight, pattern = self.neuron.weight, self.method.granularity.pattern
        assert gradient is None or isinstance(gradient, Tensor)
        scores = torch.zeros_like(weight) if gradient is None else self.method.grow_scores(self.neuron, gradient)
        appeal = self.method.granularity.grid(self.neuron, scores.float().abs())
        self._open = ~(self._kept if self.method.regrows_dropped else self._active)
        if self.method.regrows_dropped and pattern is not None:
            self._open = top_of_group(appeal, self._open, pattern[0] - self._kept.sum(1))
        self._scores, self._appeal = scores, appeal[self._open]

    def openings(self) -> Tensor:
        """Scores of all openings."""
        return self._appeal

    def grow(self, chosen: Tensor) -> None:
        """Grow units."""
        self.mask = self.method.granularity.spread(self.neuron, self._kept | _entries(chosen, self._open))
        self.starts = self.method.new_weights(self._scores, self.mask & ~self.before)


class PlaceExchange(Exchange):
    """The exchange of a layer that holds only its connections; nothing of dense size is made."""

    def candidates(self) -> Tensor:
        """Scores of the connections outside each neuron's fewest largest."""
        from lpsphere.kernels.selection import top_of_rows

        mask = torch.ones_like(self.neuron.weight, dtype=torch.bool)
        size = self.method.drop_scores(self.neuron, mask).detach().float()
        self._kept = mask.zero_().cpu()
        pointers = layer_of(self.neuron).row_pointers
        top_of_rows(pointers.cpu().numpy(), size.cpu().numpy(), self.fewest, self._kept.numpy())
        return size[~self._kept]

    def drop(self, chosen: Tensor) -> None:
        """Drop connections."""
        self._kept = ~_entries(chosen, ~self._kept)

    def look(self, gradient: Gradient | None, best: Best, first: int) -> None:
        """Offer the openings to ``best``."""
        taken = places_of(self.neuron)
        if self.method.regrows_dropped:
            taken = taken[self._kept]
        offer_openings(best, self.method, self.neuron, gradient, taken, first)
        self._best, self._first = best, first

    def openings(self) -> Tensor:
        """Scores of those that are among the best."""
        places, scores = self._best.result()
        ends = torch.tensor([self._first, self._first + self.neuron.size])
        start, stop = torch.searchsorted(places, ends).tolist()
        self._grown, self._scores = places[start:stop] - self._first, scores[start:stop]
        del self._best
        return self._scores.abs()

    def grow(self, chosen: Tensor) -> None:
        """Grow connections."""
        self._grown, self._scores = self._grown[chosen], self._scores[chosen]

    def outcome(self) -> tuple[Reconnection, Tensor | None]:
        """The connections now; and where new ones start, in units of their neuron's mean |v|, None: at 0."""
        now = Reconnection.of(self.neuron, self._kept, self._grown)
        scores = self._scores.new_zeros(now.new.shape)
        scores[now.new] = self._scores[now.grown]
        return now, self.method.new_weights(scores, now.new)


def _entries(chosen: Tensor, among: Tensor) -> Tensor:
    """A choice among the True entries of a mask, as a mask."""
    return torch.zeros_like(among).masked_scatter_(among, chosen.to(among.device))
