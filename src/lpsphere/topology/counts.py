"""What an update counts: before it, what is ranked together; after it, what came of it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Event", "Pool"]


@dataclass(frozen=True)
class Event:
    """One update of the topology.

    Attributes:
        step: Optimizer steps taken.
        sparsity: Sparsity after it, over the selected weights.
        threshold: The largest score that was dropped (relative magnitude for `SemiPruning`); 0 if none was.
        dropped: Connections of each layer that exist no more.
        regrown: Connections of each layer that did not exist before.
    """

    step: int
    sparsity: float
    threshold: float
    dropped: dict[str, int]
    regrown: dict[str, int]


@dataclass(frozen=True)
class Pool:
    """What is ranked together, one layer or the whole network, in units: connections, or blocks of them.

    Attributes:
        units: N, all of them.
        active: A, those that exist.
        fewest: F, those that must stay.
        start: Those that existed when the method was attached.
        goal: Those that exist at the target sparsity.
    """

    units: int
    active: int
    fewest: int
    start: int
    goal: int

    def at(self, sparsity: float) -> int:
        """T, the units at a sparsity."""
        return max(round(self.units * (1 - sparsity)), self.fewest)
