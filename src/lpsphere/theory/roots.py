"""The one root of a function that falls."""

from __future__ import annotations

from collections.abc import Callable

import scipy  # its parts are loaded when they are first used: they take half of the time of importing the package

__all__ = ["root"]


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where ``function`` is 0, to a relative 1e-14; it must have opposite signs at both ends."""
    return float(scipy.optimize.brentq(function, low, high, xtol=1e-14, rtol=1e-14))
