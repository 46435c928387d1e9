"""The one root of a function that falls."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["root"]


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where ``function`` is 0, to a relative 1e-14; it must have opposite signs at both ends."""
    from scipy.optimize import brentq  # a third of the time that importing the package takes, for the inverses alone

    return float(brentq(function, low, high, xtol=1e-14, rtol=1e-14))
