"""When the topology is updated, and how quantities move in between. Small frozen dataclasses and pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["UpdateSchedule", "cubic", "half_cosine"]


def cubic(initial: float, final: float, progress: float) -> float:
    """``final + (initial - final) (1 - progress)^3``: fast at first, then gentle (Zhu and Gupta, 2017)."""
    return final + (initial - final) * (1 - progress) ** 3


def half_cosine(initial: float, progress: float) -> float:
    """``initial (1 + cos(pi progress)) / 2``: from ``initial`` to 0."""
    return initial * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class UpdateSchedule:
    """Updates every ``every`` optimizer steps from ``first`` on, and once more at ``last``.

    Attributes:
        first: The first update follows this step (steps count from 1).
        last: The last update follows this step.
        every: Steps between updates.
    """

    first: int
    last: int
    every: int

    @classmethod
    def of_training(
        cls, total_steps: int, begin: float, end: float, every: int | None, least: int = 1
    ) -> UpdateSchedule:
        """The schedule between two fractions of training.

        Args:
            total_steps: Optimizer steps of the whole training.
            begin: Fraction of training at the first update.
            end: Fraction of training at the last update.
            every: Steps between updates; None: max(least, min(40, total_steps // 100)).
            least: The shortest interval that None may mean.

        Raises:
            ValueError: If an argument is out of range.
        """
        if isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1:
            raise ValueError(
                f"total_steps must be a whole number of at least 1, got {total_steps!r}: len(loader) * epochs"
            )
        if not 0 <= begin <= end <= 1:
            raise ValueError(f"begin and end must be fractions of training, 0 <= begin <= end <= 1; got {begin}, {end}")
        if every is None:
            every = max(least, min(40, total_steps // 100))
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a whole number of steps, at least 1, or None; got {every!r}")
        last = max(1, round(end * total_steps))
        return cls(first=min(last, max(1, round(begin * total_steps))), last=last, every=every)

    def is_update(self, step: int) -> bool:
        """Whether the topology is updated after this optimizer step."""
        return step == self.last or (self.first <= step < self.last and (step - self.first) % self.every == 0)

    def progress(self, step: int) -> float:
        """The fraction of the evolution that is done, in [0, 1]."""
        if step >= self.last:
            return 1.0
        return max(0.0, (step - self.first) / (self.last - self.first))
