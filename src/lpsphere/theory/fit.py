"""Do the squares of trained weights follow the gamma hypothesis, and with which constant?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are loaded when they are first used: they take half of the time of importing the package
from numpy.typing import NDArray
from torch import Tensor

from lpsphere.geometry import check_exponent
from lpsphere.theory.arguments import Array, Floats, first, numbers
from lpsphere.theory.roots import root

__all__ = ["ShapeFit", "fit_shape"]

_CHECKED_WEIGHTS, _CHECKED_ROW = 8192, 256  # the goodness of fit: at most, in all and (of many rows) of one


@dataclass(frozen=True)
class ShapeFit:
    """How well weights follow the gamma hypothesis, and with which constant; ``print`` shows it on a line.

    Attributes:
        shape: The maximum-likelihood estimate of a in k = a (p - 1).
        low: Lower end of its confidence interval.
        high: Upper end.
        distance: Kolmogorov-Smirnov distance of the squares' shares from the law of the fit, in [0, 1].
        p_value: Probability of a distance at least as large if the hypothesis holds; no less than
            1 / (samples of the bootstrap + 1).
        rows: Rows with two non-zero weights or more, those used.
        weights: Their non-zero weights.
        confidence: Level of the interval.
    """

    shape: float
    low: float
    high: float
    distance: float
    p_value: float
    rows: int
    weights: int
    confidence: float = 0.95

    def __str__(self) -> str:
        """One line."""
        return (
            f"shape {self.shape:.4g} ({100 * self.confidence:g} % interval {self.low:.4g} to {self.high:.4g}), "
            f"Kolmogorov-Smirnov distance {self.distance:.3g} (p-value {self.p_value:.2g}), "
            f"{self.weights:,} weights in {self.rows:,} rows"
        )


def fit_shape(
    rows: Tensor | Array, p: float, *, confidence: float = 0.95, bootstrap: int = 99, seed: int = 0
) -> ShapeFit:
    """Maximum-likelihood estimate of the constant a of the gamma hypothesis, from weights on the sphere.

    The squares of a row over their sum are symmetric Dirichlet(k), k = a (p - 1), whatever the row's size: rows of
    different norms may be mixed. Zero weights are left out of their row, and rows with fewer than two others are not
    used: right for connections that are gone, but weights that underflowed to 0 raise the estimate. The interval is
    Wald's for log k, from the Fisher information. For the goodness of fit at most 8192 weights are drawn at
    random, at most 256 of a row where there are many (a part of a Dirichlet row over its sum is again Dirichlet(k)),
    and fitted; each share has the marginal Beta(k, (n - 1) k) of its row of n, and the p-value comes from samples of
    the fitted law that are fitted in turn.

    Args:
        rows: Weights, shape (..., n), a tensor or an array.
        p: Exponent of their spheres, greater than 1.
        confidence: Level of the interval, between 0 and 1.
        bootstrap: Number of samples for the p-value, at least 1.
        seed: Seed of the draws.

    Returns:
        The estimate, its interval and the goodness of fit.

    Raises:
        TypeError: If p is not a number, or rows is not an array of numbers.
        ValueError: If no row has two non-zero weights, a weight is not finite, the magnitudes in every row are
            equal, p is not greater than 1, or a setting is out of its range.

    Source: Method, section 3; the maximum-likelihood equation of the symmetric Dirichlet law, T. P. Minka 2000.
    """
    p = check_exponent(p)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}: 0.95, for example")
    if isinstance(bootstrap, bool) or not isinstance(bootstrap, int) or bootstrap < 1:
        raise ValueError(f"bootstrap must be a whole number of samples, at least 1, got {bootstrap!r}")
    logs = _log_squares(rows)
    sizes = np.isfinite(logs).sum(-1)
    k = _fit_gamma_shape(_log_shares(logs), sizes)
    information = float((sizes * (scipy.special.polygamma(1, k) - sizes * scipy.special.polygamma(1, sizes * k))).sum())
    factor = math.exp(float(scipy.special.ndtri((1 + confidence) / 2)) / (k * math.sqrt(information)))

    rng = np.random.default_rng(seed)
    part = _part(logs, rng)
    distance, k_part = _distance(part)
    present = np.isfinite(part)
    exceeding = sum(_distance(_sample(k_part, present, rng))[0] >= distance for _ in range(bootstrap))
    a = k / (p - 1)
    p_value = (1 + exceeding) / (1 + bootstrap)
    return ShapeFit(a, a / factor, a * factor, distance, p_value, len(sizes), int(sizes.sum()), confidence)


# The fit. Shares are kept as logarithms, shape (rows, n), with -inf where there is no weight: for small k the shares
# themselves underflow.


def _log_squares(rows: Tensor | Array) -> Floats:
    """Logarithms of the squares of the rows that can be used."""
    weights = numbers(rows, "rows")
    if weights.ndim == 0:
        raise ValueError(f"rows must have at least one dimension, got the number {float(weights):g}")
    weights = np.abs(weights.reshape(-1, weights.shape[-1]) if weights.size else np.zeros((0, 2)))
    if not np.isfinite(weights).all():
        raise ValueError(f"rows must be finite, got {first(weights[~np.isfinite(weights)]):g} among the weights")
    weights = weights[(weights > 0).sum(-1) >= 2]
    if not len(weights):
        raise ValueError("no row has two weights that are not zero, so the shape cannot be estimated: give more rows")
    with np.errstate(divide="ignore"):
        return np.asarray(2 * np.log(weights))


def _log_shares(logs: Floats) -> Floats:
    return np.asarray(logs - scipy.special.logsumexp(logs, axis=-1, keepdims=True))


def _fit_gamma_shape(log_shares: Floats, sizes: NDArray[np.int_]) -> float:
    """The k at which the score sum n_i (psi(n_i k) - psi(k)) + sum log x, which falls in k, is 0."""
    observed = float(log_shares[np.isfinite(log_shares)].sum())
    lengths, times = np.unique(sizes, return_counts=True)

    def score(u: float) -> float:
        k = math.exp(u)
        return float((times * lengths * (scipy.special.psi(lengths * k) - scipy.special.psi(k))).sum()) + observed

    low, high = math.log(1e-12), math.log(1e10)
    if score(high) >= 0:
        raise ValueError(
            "the magnitudes in every row are equal, so that no shape is the likeliest: "
            "give weights that have been initialised or trained"
        )
    return math.exp(root(score, low, high))


def _part(logs: Floats, rng: np.random.Generator) -> Floats:
    """Some weights of some rows, drawn at random, for the goodness of fit."""
    longest = max(_CHECKED_ROW, _CHECKED_WEIGHTS // len(logs))
    order = rng.permutation(len(logs))
    total = np.minimum(np.isfinite(logs[order]).sum(-1), longest).cumsum()
    part = logs[order[: int((total <= _CHECKED_WEIGHTS).sum())]]
    if part.shape[-1] > longest:
        part = rng.permuted(part, axis=-1)
        present_first = np.argsort(~np.isfinite(part), axis=-1, kind="stable")
        part = np.take_along_axis(part, present_first[:, :longest], axis=-1)
    return part


def _sample(k: float, present: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """Logarithms of Gamma(k) variables: of Gamma(k + 1) times the power 1/k of a uniform one, for none is 0."""
    logs = np.full(present.shape, -math.inf)
    count = int(present.sum())
    logs[present] = np.log(rng.standard_gamma(k + 1, count)) - rng.standard_exponential(count) / k
    return logs


def _distance(logs: Floats) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of the shares from their marginals under the fit, and the k of the fit."""
    present = np.isfinite(logs)
    sizes = present.sum(-1)
    log_shares = _log_shares(logs)
    k = _fit_gamma_shape(log_shares, sizes)
    x = log_shares[present]
    other = (np.repeat(sizes, sizes) - 1) * k
    # Far below 1 the lower tail of the Beta law is a power, and the share itself may underflow.
    tail = np.exp(np.minimum(k * x - math.log(k) - scipy.special.betaln(k, other), 0))
    u = np.sort(np.where(x < -500, tail, scipy.special.betainc(k, other, np.exp(x))))
    steps = np.arange(len(u) + 1) / len(u)
    return float(np.maximum(steps[1:] - u, u - steps[:-1]).max()), k
