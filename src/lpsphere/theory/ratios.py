"""Gamma ratios: with f(a) = Gamma(a + 1/2) / Gamma(a), delta(a) = a / f(a)^2 - 1, which falls from infinity to 0."""

from __future__ import annotations

import numpy as np

from lpsphere.theory.arguments import Floats

__all__ = ["delta", "rest"]

# delta(a) = sum of c_j a^-j, from log f(a) = log(a)/2 + sum over m of (-1)^(m+1) (B_{m+1}(1/2) - B_{m+1}) /
# (m (m+1)) a^-m with Bernoulli's polynomials and numbers. The fractions are exact in float64.
_SERIES = (
    1 / 4,
    1 / 32,
    -1 / 128,
    -5 / 2048,
    23 / 8192,
    53 / 65536,
    -593 / 262144,
    -5165 / 8388608,
    110123 / 33554432,
    231743 / 268435456,
    -8113223 / 1073741824,
    -33497425 / 17179869184,
    1744764499 / 68719476736,
    3563384029 / 549755813888,
    -258115578289 / 2199023255552,
    -4191097954685 / 140737488355328,
)
_SERIES_FROM = 16


def rest(a: Floats) -> Floats:
    """delta(a) - 1/(4 a)."""
    # Below 16, f(a) = f(a + 1) a / (a + 1/2) carries the series down from a + 16.
    start = np.where(a < _SERIES_FROM, a + _SERIES_FROM, a)
    rest = np.polynomial.polynomial.polyval(1 / start, (0, 0, *_SERIES[1:]))
    ratio = (1 + 1 / (4 * start) + rest) * a / start
    for j in range(_SERIES_FROM):
        ratio = ratio * ((a + j + 0.5) / (a + j)) ** 2
    return np.where(a < _SERIES_FROM, ratio - 1 - 1 / (4 * a), rest)


def delta(a: Floats) -> Floats:
    """A / f(a)^2 - 1."""
    return 1 / (4 * a) + rest(a)
