"""How many units each layer gets, exact in total. Pure functions of shapes and counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["check_distribution", "layer_units"]


def check_distribution(distribution: str) -> str:
    """Return the name of a distribution.

    Raises:
        ValueError: If it is not "uniform" or "erk".
    """
    if distribution not in ("uniform", "erk"):
        raise ValueError(f'distribution must be "uniform" or "erk", got {distribution!r}')
    return distribution


def layer_units(
    shapes: Sequence[Sequence[int]],
    total: int,
    fewest: Sequence[int],
    most: Sequence[int],
    distribution: str = "uniform",
) -> list[int]:
    """Divide ``total`` connections (or blocks of one size) over layers.

    "uniform" gives every layer the same density. "erk" (Erdos-Renyi kernel; Evci et al., 2020) makes a layer's
    density proportional to the sum of its dimensions over their product, so that narrow layers stay denser. A layer
    that reaches its most or its fewest stays there and the others share the rest.

    Args:
        shapes: Shapes of the weight tensors.
        total: Of all layers together.
        fewest: The fewest of each layer.
        most: The most of each layer.
        distribution: "uniform" or "erk".

    Returns:
        Those of each layer; their sum is ``total``.

    Raises:
        ValueError: If the distribution is unknown, or ``total`` is less than the fewest or more than the most.
    """
    if check_distribution(distribution) == "uniform":
        shares = [float(math.prod(shape)) for shape in shapes]
    else:
        shares = [float(sum(shape)) for shape in shapes]
    if not sum(fewest) <= total <= sum(most):
        raise ValueError(f"cannot divide {total:,} over layers that take {sum(fewest):,} to {sum(most):,}")
    exact = _fill(shares, float(total), list(fewest), list(most))
    counts = [math.floor(x) for x in exact]
    by_remainder = sorted(range(len(counts)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _fill(shares: Sequence[float], total: float, lower: Sequence[int], upper: Sequence[int]) -> list[float]:
    """``clamp(factor share_i, lower_i, upper_i)`` with the one factor for which the sum is ``total``, by bisection."""

    def at(factor: float) -> list[float]:
        return [min(max(factor * s, lo), up) for s, lo, up in zip(shares, lower, upper, strict=True)]

    low, high = 0.0, max(up / s for s, up in zip(shares, upper, strict=True))
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle)) < total else (low, middle)
    return [float(round(x)) if abs(x - round(x)) < 1e-6 else x for x in at(high)]
