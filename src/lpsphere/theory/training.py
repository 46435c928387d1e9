"""The p to train with for a target sparsity: the theory's scale, calibrated on trained networks."""

from __future__ import annotations

import math

from lpsphere.theory.laws import p_for_sparsity, weak_fraction

__all__ = ["calibrated_p", "p_for_training"]

WEAK_DENSE, WEAK_PER_DECADE = 0.7, 0.02
"""The weak fraction (under 0.2 of the mean magnitude) that suits dense training, and what a decade of density adds."""

LOWEST_P = 1.05
"""Below it float32 weights underflow and accuracy falls."""


def p_for_training(sparsity: float) -> float:
    """The p that suits training to a target sparsity.

    It solves ``weak_fraction(p, 0.2) = WEAK_DENSE + WEAK_PER_DECADE log10(1 / (1 - sparsity))``, and is at least 1.05.
    A p that made the fraction ``sparsity`` of the weights weak by itself would come too near to 1 (`p_for_sparsity`):
    what p leaves to do, the topology method does.

    Args:
        sparsity: Target sparsity, in [0, 1).

    Returns:
        p, at least 1.05, to three decimals.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not in [0, 1).

    Source: Method, section 3; the two constants are measured (``lpsphere study auto-p``).

    Example:
        >>> p_for_training(0.5) > p_for_training(0.9) > 1.05
        True
    """
    return calibrated_p(sparsity, WEAK_DENSE, WEAK_PER_DECADE)


def calibrated_p(sparsity: float, weak_dense: float, weak_per_decade: float) -> float:
    """The same with other constants."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float):
        raise TypeError(f"sparsity must be a number in [0, 1), got {sparsity!r}")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1): the fraction of connections that are gone; got {sparsity}")
    weak = weak_dense - weak_per_decade * math.log10(1 - sparsity)
    if weak >= weak_fraction(LOWEST_P, 0.2):
        return LOWEST_P
    return round(p_for_sparsity(weak, 0.2), 3)
