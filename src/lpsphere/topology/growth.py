"""Where a layer that holds only its connections can grow: its best openings, found without anything of dense size.

A *place* is row * fan_in + column: the index of a connection in the dense weight, flattened. Scores are taken of whole
rows, some at a time, and only as many as can be grown are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from lpsphere.memory import scratch
from lpsphere.neurons import NeuronWeight

__all__ = ["LARGE", "Best", "FactoredGradient", "Gradient", "Grower", "absent_from", "offer_openings", "random_places"]

BLOCK = 2**16
"""Scores taken at a time, or those of one row: as many as stay in the cache."""
_ROWS, _PRODUCT = 64, 2**22
"""Rows of a gradient that are multiplied out at a time: with fewer, a product would read all inputs for little work.
Where these are more than so many numbers, it is at least `_FEWEST_ROWS`."""
_FEWEST_ROWS = 16
_SPARE = 2**14
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

    def blocks(self, count: int) -> Iterator[Tensor]:
        """The gradient, ``count`` neurons at a time, shape (count, fan_in); blocks are overwritten by later ones."""
        fan_in, neurons = len(self.x), len(self.dy)
        rows = max(count, min(_ROWS, max(_FEWEST_ROWS, _PRODUCT // max(1, fan_in))) // count * count)
        product = self.x.new_empty(min(rows, neurons), fan_in)
        for first in range(0, neurons, rows):
            dy = self.dy[first : first + rows]
            yield from torch.split(torch.mm(dy, self.x.t(), out=product[: len(dy)]), count)

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
        return all(bool(block.isfinite().all()) for block in self.blocks(_rows_at_once(len(self.x))))


Gradient = Tensor | FactoredGradient


class Grower(Protocol):
    """What a method says about growing."""

    grows_at_random: ClassVar[bool]
    _generator: torch.Generator

    def grow_scores(self, neuron: NeuronWeight, gradient: Tensor) -> Tensor:
        """Scores of whole rows, of which those of largest magnitude are grown."""


class Best:
    """The scores of largest magnitude among those that come one after the other; ties go to the earlier.

    They are kept in one place, however many layers offer theirs: a list for each would be as long.

    Args:
        count: How many.
        dtype: Type in which the scores are kept.
    """

    def __init__(self, count: int, dtype: torch.dtype = torch.float32) -> None:
        self.count = count
        self._least = -1.0 if count else torch.inf  # from now on only what is larger can be among them
        room = count + max(count // 4, _SPARE) if count else 0
        self._scores, self._places = scratch(room, dtype), scratch(room, torch.int64)
        self._filled = 0

    def offer(self, scores: Tensor, first: int, taken: Tensor | None = None) -> None:
        """Consider scores, shape (n,), at the places from ``first`` on; NaN is left out.

        Args:
            scores: float32 or float64.
            first: The place of the first; those that were offered before are smaller.
            taken: Which entries are left out, int64, ascending.
        """
        from lpsphere.kernels.selection import collect

        if not self.count:
            return
        given, left_out = scores.contiguous().numpy(), (self._places[:0] if taken is None else taken).numpy()
        found, places = self._scores.numpy(), self._places.numpy()
        at = 0
        while True:
            at, self._filled = collect(given, at, self._least, first, left_out, found, places, self._filled)
            if at == len(given):
                return
            self._select()

    def add(self, scores: Tensor, places: Tensor) -> None:
        """Consider scores, shape (n,), at places of their own, ascending and larger than those that were offered."""
        for score, place in zip(torch.split(scores, _SPARE), torch.split(places, _SPARE), strict=True):
            if self._filled + len(score) > len(self._scores):
                self._select()
            new = slice(self._filled, self._filled + len(score))
            self._scores[new], self._places[new] = score, place
            self._filled = new.stop

    def result(self) -> tuple[Tensor, Tensor]:
        """Their places, ascending, and their scores."""
        self._select()
        return self._places[: self._filled], self._scores[: self._filled]

    def _select(self) -> None:
        from lpsphere.kernels.selection import keep_above

        if not self.count or self._filled < self.count:
            return
        scores = self._scores[: self._filled]
        sizes = torch.abs(scores, out=scratch(self._filled, scores.dtype)).numpy()
        sizes.partition(self._filled - self.count)
        self._least = float(sizes[self._filled - self.count])
        ties = self.count - int((sizes > self._least).sum())
        keep_above(scores.numpy(), self._places.numpy(), self._least, ties)
        self._filled = self.count


def offer_openings(
    best: Best, method: Grower, neuron: NeuronWeight, gradient: Gradient | None, taken: Tensor, first: int = 0
) -> None:
    """Offer the places where a sparse layer can grow.

    Args:
        best: Takes scores, signed, and places.
        method: Scores them.
        neuron: The layer.
        gradient: Its gradient; a tensor stands for one that the method does not look at. None: there is none, and all
            scores are 0.
        taken: Places where nothing can be grown, int64, ascending.
        first: What to add to its places, where several layers are ranked together.

    Raises:
        ValueError: If the method's scores are not of the shape of the gradient that it was given.
    """
    size, fan_in = neuron.size, neuron.fan_in
    if gradient is None:
        best.offer(torch.zeros(min(size, best.count + len(taken))), first, taken)
        return
    if method.grows_at_random and size > LARGE:
        places, scores = _random_openings(min(best.count, size - len(taken)), size, taken, method._generator)
        best.add(scores, places.add_(first))
        return
    if best.count == 0 and not method.grows_at_random:
        return
    step = _rows_at_once(fan_in)
    blocks = gradient.blocks(step) if isinstance(gradient, FactoredGradient) else _no_gradients(neuron, step)
    ends = torch.searchsorted(taken, torch.arange(0, neuron.neurons + step, step) * fan_in).tolist()
    for i, block in enumerate(blocks):
        scores = method.grow_scores(neuron, block)
        if scores.shape != block.shape:
            raise ValueError(
                f"grow_scores of {type(method).__name__} returned scores of shape {tuple(scores.shape)} for a gradient "
                f"of shape {tuple(block.shape)}: of {neuron.name}, which holds only its connections, it is given some "
                "rows at a time, and must score those"
            )
        start = i * step * fan_in
        best.offer(scores.float().reshape(-1), first + start, taken[ends[i] : ends[i + 1]] - start)


def _no_gradients(neuron: NeuronWeight, count: int) -> Iterator[Tensor]:
    """What stands for the gradients of ``count`` neurons after the other, where a method does not look at them."""
    for first in range(0, neuron.neurons, count):
        yield torch.zeros(()).expand(min(count, neuron.neurons - first), neuron.fan_in)


def random_places(neuron: NeuronWeight, count: int, fewest: int, generator: torch.Generator) -> Tensor:
    """Uniformly random places, ascending: exactly ``count``, and at least ``fewest`` of every neuron.

    The same choices as `masks.random_units` makes, if the layer is not `LARGE`.
    """
    neurons, fan_in = neuron.neurons, neuron.fan_in
    if neuron.size > LARGE and 2 * count <= neuron.size:
        first = _draw(torch.full((neurons,), fewest), fan_in, generator)
        return torch.cat([first, _draw_open(count - len(first), neuron.size, first, generator)]).sort().values
    step = _rows_at_once(fan_in)
    best = Best(count, torch.float64)
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
    return max(1, BLOCK // max(1, fan_in))


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
