"""Where a layer that holds only its connections can grow: its best openings, found without anything of dense size.

A *place* is row * fan_in + column: the index of a connection in the dense weight, flattened. Scores are taken of whole
rows, some at a time, and only as many as can be grown are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from lpsphere.neurons import NeuronWeight
from lpsphere.topology.masks import lowest

__all__ = ["LARGE", "Best", "FactoredGradient", "Gradient", "Grower", "absent_from", "best_openings", "random_places"]

BLOCK = 2**16
"""Scores taken at a time, or those of `_ROWS` rows."""
_ROWS = 16
"""With fewer rows at a time a gradient's product would read all inputs for little work."""
LARGE = 2**24
"""Weights of a layer above which random connections are drawn one by one, instead of ranking a random number each:
only below it are the choices those that a mask of the same seed would make."""


@dataclass(frozen=True)
class FactoredGradient:
    """A dense gradient dY X', never multiplied out.

    Attributes:
        dy: Gradient of the outputs, shape (neurons, samples).
        x: Inputs, shape (fan_in, samples).
    """

    dy: Tensor
    x: Tensor

    @property
    def device(self) -> torch.device:
        """Where the factors are."""
        return self.dy.device

    def rows(self, first: int, last: int) -> Tensor:
        """The gradient of some neurons, shape (last - first, fan_in)."""
        return self.dy[first:last] @ self.x.t()

    def __truediv__(self, scale: Tensor) -> FactoredGradient:
        return FactoredGradient(self.dy / scale, self.x)

    def is_finite(self) -> bool:
        """Whether every entry of the product is; multiplied out, some rows at a time, only where that is in doubt."""
        if not (self.dy.isfinite().all() and self.x.isfinite().all()):
            return False
        if 0 in (self.dy.numel(), self.x.numel()):
            return True
        bound = float(self.dy.abs().max()) * float(self.x.abs().max()) * self.x.shape[1]
        if bound < torch.finfo(self.x.dtype).max:
            return True
        rows, step = len(self.dy), _rows_at_once(len(self.x))
        return all(bool(self.rows(i, min(i + step, rows)).isfinite().all()) for i in range(0, rows, step))


Gradient = Tensor | FactoredGradient


class Grower(Protocol):
    """What a method says about growing."""

    grows_at_random: ClassVar[bool]
    _generator: torch.Generator

    def grow_scores(self, neuron: NeuronWeight, gradient: Tensor) -> Tensor:
        """Scores of whole rows, of which those of largest magnitude are grown."""


class Best:
    """The scores of largest magnitude among those that come block after block; ties go to the earlier.

    They are kept in one place: small tensors between the large ones of every block would scatter over the heap.

    Args:
        count: How many.
        block: The most scores that come at a time.
        dtype: Type of the scores.
    """

    def __init__(self, count: int, block: int, dtype: torch.dtype = torch.float32) -> None:
        self.count = count
        self._least = -1.0 if count else torch.inf  # from now on only what is larger can be among them
        self._scores = torch.empty(count + block, dtype=dtype)
        self._places = torch.empty(count + block, dtype=torch.int64)
        self._filled = 0

    def offer(self, scores: Tensor, first: int) -> None:
        """Consider a block, shape (n,), at the places from ``first`` on; NaN is left out."""
        found = (scores.abs() > self._least).nonzero().flatten()
        if self._filled + len(found) > len(self._scores):
            self._select()
            found = found[scores[found].abs() > self._least]
        new = slice(self._filled, self._filled + len(found))
        self._scores[new], self._places[new] = scores[found], found + first
        self._filled += len(found)

    def result(self) -> tuple[Tensor, Tensor]:
        """Their places, ascending, and their scores."""
        self._select()
        return self._places[: self._filled], self._scores[: self._filled]

    def _select(self) -> None:
        if not self.count or self._filled < self.count:
            return
        scores, places = self._scores[: self._filled], self._places[: self._filled]
        chosen = lowest(-scores.abs(), self.count)
        scores, places = scores[chosen], places[chosen]
        self._filled = self.count
        self._scores[: self.count], self._places[: self.count] = scores, places
        self._least = float(scores.abs().min())


def best_openings(
    method: Grower, neuron: NeuronWeight, gradient: Gradient | None, count: int, taken: Tensor
) -> tuple[Tensor, Tensor]:
    """The places where a sparse layer can best grow.

    Args:
        method: Scores them.
        neuron: The layer.
        gradient: Its gradient; a tensor stands for one that the method does not look at. None: there is none, and all
            scores are 0.
        count: How many are wanted at most.
        taken: Places where nothing can be grown, ascending.

    Returns:
        ``count`` places, ascending, or all that are open; and their scores, signed.
    """
    size, fan_in = neuron.size, neuron.fan_in
    count = min(count, size - len(taken))
    if gradient is None:
        among = torch.arange(min(size, count + len(taken)))
        places = among[absent_from(among, taken)][:count]
        return places, torch.zeros(len(places))
    if method.grows_at_random and size > LARGE:
        return _random_openings(count, size, taken, method._generator)
    step = _rows_at_once(fan_in)
    best = Best(count, step * fan_in)
    if count == 0 and not method.grows_at_random:
        return best.result()
    for first in range(0, neuron.neurons, step):
        last = min(first + step, neuron.neurons)
        block = (
            gradient.rows(first, last)
            if isinstance(gradient, FactoredGradient)
            else torch.zeros(()).expand(last - first, fan_in)
        )
        scores = method.grow_scores(neuron, block)
        if scores.shape != block.shape:
            raise ValueError(
                f"grow_scores of {type(method).__name__} returned scores of shape {tuple(scores.shape)} for a gradient "
                f"of shape {tuple(block.shape)}: of {neuron.name}, which holds only its connections, it is given some "
                "rows at a time, and must score those"
            )
        flat = scores.float().reshape(-1)
        start, stop = torch.searchsorted(taken, torch.tensor([first * fan_in, last * fan_in])).tolist()
        flat[taken[start:stop] - first * fan_in] = torch.nan
        best.offer(flat, first * fan_in)
    return best.result()


def random_places(neuron: NeuronWeight, count: int, fewest: int, generator: torch.Generator) -> Tensor:
    """Uniformly random places, ascending: exactly ``count``, and at least ``fewest`` of every neuron.

    The same choices as `masks.random_units` makes, if the layer is not `LARGE`.
    """
    neurons, fan_in = neuron.neurons, neuron.fan_in
    if neuron.size > LARGE and 2 * count <= neuron.size:
        first = _draw(torch.full((neurons,), fewest), fan_in, generator)
        return torch.cat([first, _draw_open(count - len(first), neuron.size, first, generator)]).sort().values
    step = _rows_at_once(fan_in)
    best = Best(count, step * fan_in, torch.float64)
    for start in range(0, neurons, step):
        scores = torch.rand((min(step, neurons - start), fan_in), generator=generator)
        if fewest > 0:
            first = scores.argsort(dim=1, stable=True)[:, :fewest]
            scores.scatter_(1, first, scores.gather(1, first) - 1)
        best.offer(1 - scores.double().flatten(), start * fan_in)  # the smallest are chosen; exact in 64 bits
    return best.result()[0]


def absent_from(places: Tensor, others: Tensor) -> Tensor:
    """Which places are not among others, bool; the others ascend."""
    if not len(others):
        return torch.ones_like(places, dtype=torch.bool)
    return others[torch.searchsorted(others, places).clamp(max=len(others) - 1)] != places


def _rows_at_once(fan_in: int) -> int:
    return max(_ROWS, BLOCK // fan_in)


def _random_openings(count: int, size: int, taken: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random places, and as their scores the largest of as many uniform random numbers as there are openings."""
    places = _draw_open(count, size, taken, generator)
    left = size - len(taken) - torch.arange(count, dtype=torch.float64)
    waits = -(1 - torch.rand(count, generator=generator, dtype=torch.float64)).log()
    scores = (-(waits / left).cumsum(0)).exp()  # falling: the largest of n numbers, of the n - 1 below it, ...
    return places, scores[torch.randperm(count, generator=generator)]


def _draw_open(count: int, size: int, taken: Tensor, generator: torch.Generator) -> Tensor:
    """Random places that are not taken, ascending; every set of them is as likely."""
    found = torch.empty(0, dtype=torch.int64)
    while len(found) < count:
        drawn = torch.randint(size, (count - len(found),), generator=generator)
        found = torch.unique(torch.cat([found, drawn[absent_from(drawn, taken)]]))
    return found


def _draw(fan_ins: Tensor, fan_in: int, generator: torch.Generator) -> Tensor:
    """Random places, ascending, as many in each row as ``fan_ins`` says."""
    rows, missing = torch.arange(len(fan_ins)), fan_ins
    found = torch.empty(0, dtype=torch.int64)
    while int(missing.sum()):
        row = rows.repeat_interleave(missing)
        drawn = row * fan_in + torch.randint(fan_in, (len(row),), generator=generator)
        found = torch.unique(torch.cat([found, drawn]))
        missing = fan_ins - (found // fan_in).bincount(minlength=len(fan_ins))
    return found
