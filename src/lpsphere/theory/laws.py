"""Hoyer's sparsity, its expectation, spread and weak fraction from p, and their inverses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import overload

import numpy as np
import scipy  # its parts are loaded when they are first used: they take half of the time of importing the package
import torch
from torch import Tensor

from lpsphere.theory.arguments import (
    GAMMA_SHAPE,
    Array,
    Floats,
    between_0_and_1,
    connections,
    constant,
    first,
    gamma_shape,
    plain,
    tau_of,
)
from lpsphere.theory.ratios import delta, rest
from lpsphere.theory.roots import root

__all__ = [
    "expected_hoyer",
    "hoyer",
    "hoyer_std",
    "p_for_hoyer",
    "p_for_sparsity",
    "threshold_for_sparsity",
    "weak_fraction",
]

_LOWEST, _HIGHEST = 1e-9, 1e6  # the inverses look for p - 1 between these


def hoyer(x: Tensor, count: Tensor | None = None) -> Tensor:
    """Hoyer's sparsity ``(sqrt(n) - ||x||_1 / ||x||_2) / (sqrt(n) - 1)`` of each row.

    Args:
        x: Rows, shape (..., n), floating point.
        count: How many entries of each row count as its length n, shape (...); None: all. Entries beyond
            those counted must be zero, such as the inactive connections of a neuron.

    Returns:
        Shape (...), in [0, 1]: 0 for equal magnitudes, 1 for a one-hot row; NaN where it is undefined, that is
        for zero rows and for n < 2. At least float32. Differentiable; the gradient is 0 where it is undefined.

    Source: P. O. Hoyer, JMLR 5, 2004.
    """
    rows = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    largest = rows.detach().abs().amax(-1, keepdim=True)  # detached: the value does not depend on the scale
    scaled = rows / torch.where(largest > 0, largest, torch.ones_like(largest))
    squares = scaled.square().sum(-1)
    n = torch.full_like(squares, x.shape[-1]) if count is None else count.to(squares)
    undefined = (squares == 0) | (n < 2)
    # Both divisors are replaced where they are 0: NaN must not reach the gradient of a row that is masked out below.
    ratio = scaled.abs().sum(-1) / torch.where(undefined, torch.ones_like(squares), squares).sqrt()
    root = torch.where(undefined, torch.full_like(n, 4), n).sqrt()
    value = ((root - ratio) / (root - 1)).clamp(0, 1)
    return torch.where(undefined, torch.full_like(value, math.nan), value)


@overload
def expected_hoyer(p: float, fan_in: float, shape: float = GAMMA_SHAPE) -> float: ...
@overload
def expected_hoyer(p: Array, fan_in: float | Array, shape: float = GAMMA_SHAPE) -> Floats: ...
@overload
def expected_hoyer(p: float, fan_in: Array, shape: float = GAMMA_SHAPE) -> Floats: ...
def expected_hoyer(p: float | Array, fan_in: float | Array, shape: float = GAMMA_SHAPE) -> float | Floats:
    """Expected Hoyer's sparsity of a neuron on the Lp sphere, before any training.

    Exact under the hypothesis that the squared weights are independent Gamma variables of shape k = shape (p - 1).

    Args:
        p: Exponent of the sphere, greater than 1; a number or an array.
        fan_in: Number of connections of the neuron, n >= 2; a number or an array.
        shape: The constant a of the hypothesis.

    Returns:
        E[H] in [0, 1], dimensionless; a float, or an array of the broadcast shape. It falls as p or n rises. Relative
        error below 1e-10 for p from 1.0001 to 50 and fan_in from 2 to 1e9.

    Raises:
        TypeError: If an argument is not a number or an array of numbers.
        ValueError: If p is not greater than 1, ``fan_in`` below 2, ``shape`` not positive, or one is not finite.

    Source: arXiv:2103.16013; method, section 3.

    Example:
        >>> round(expected_hoyer(1.2, 144), 5)
        0.59139
    """
    return plain(_expected(gamma_shape(p, shape), connections(fan_in)))


@overload
def hoyer_std(p: float, fan_in: float, shape: float = GAMMA_SHAPE) -> float: ...
@overload
def hoyer_std(p: Array, fan_in: float | Array, shape: float = GAMMA_SHAPE) -> Floats: ...
@overload
def hoyer_std(p: float, fan_in: Array, shape: float = GAMMA_SHAPE) -> Floats: ...
def hoyer_std(p: float | Array, fan_in: float | Array, shape: float = GAMMA_SHAPE) -> float | Floats:
    """Standard deviation of one neuron's Hoyer's sparsity about `expected_hoyer`.

    Args:
        p: Exponent of the sphere, greater than 1; a number or an array.
        fan_in: Number of connections of the neuron, n >= 2; a number or an array.
        shape: The constant a of the hypothesis.

    Returns:
        The standard deviation, dimensionless; a float, or an array of the broadcast shape. For the mean of m neurons
        divide by sqrt(m). Relative error below 1e-6 for p from 1.0001 to 50 and fan_in from 2 to 1e9.

    Raises:
        TypeError, ValueError: As `expected_hoyer`.

    Source: Method, section 3; beyond the paper.

    Example:
        >>> round(hoyer_std(1.2, 144), 5)
        0.03484
    """
    k, n = gamma_shape(p, shape), connections(fan_in)
    # Var R = 1 - g(k) (1 + n delta(n k)) with R = ||w||_1/||w||_2 and g = 1/(1 + delta): the 1/(4 a) that leads in
    # delta(k) and in n delta(n k) is the same, so it is left out of both rather than subtracted.
    variance = (rest(k) - n * rest(n * k)) / (1 + delta(k))
    return plain(np.sqrt(np.maximum(variance, 0)) / (np.sqrt(n) - 1))


@overload
def p_for_hoyer(h: float, fan_in: float, shape: float = GAMMA_SHAPE) -> float: ...
@overload
def p_for_hoyer(h: Array, fan_in: float | Array, shape: float = GAMMA_SHAPE) -> Floats: ...
@overload
def p_for_hoyer(h: float, fan_in: Array, shape: float = GAMMA_SHAPE) -> Floats: ...
def p_for_hoyer(h: float | Array, fan_in: float | Array, shape: float = GAMMA_SHAPE) -> float | Floats:
    """The exponent at which a neuron's expected Hoyer's sparsity is ``h``: the inverse of `expected_hoyer`.

    Args:
        h: Expected Hoyer's sparsity, between 0 and 1; a number or an array.
        fan_in: Number of connections of the neuron, n >= 2; a number or an array.
        shape: The constant a of the hypothesis.

    Returns:
        p, greater than 1; a float, or an array of the broadcast shape.

    Raises:
        TypeError: If an argument is not a number or an array of numbers.
        ValueError: If h is not between 0 and 1, ``fan_in`` below 2, ``shape`` not positive, or no p from 1 + 1e-9 to
            1e6 gives h.

    Source: Method, section 3.

    Example:
        >>> round(p_for_hoyer(0.59139, 144), 4)
        1.2
    """
    values, n, shape = between_0_and_1(h, "h, Hoyer's sparsity,"), connections(fan_in), constant(shape)
    return plain(_exponents(lambda k, n: float(_expected(k, n)), values, n, shape, "E[H] = {!r} at fan_in = {:g}"))


@overload
def weak_fraction(p: float, threshold: float, shape: float = GAMMA_SHAPE) -> float: ...
@overload
def weak_fraction(p: Array, threshold: float | Array, shape: float = GAMMA_SHAPE) -> Floats: ...
@overload
def weak_fraction(p: float, threshold: Array, shape: float = GAMMA_SHAPE) -> Floats: ...
def weak_fraction(p: float | Array, threshold: float | Array, shape: float = GAMMA_SHAPE) -> float | Floats:
    """Expected fraction of a neuron's connections with a magnitude under ``threshold`` times their mean magnitude.

    The limit for a large fan_in, where the mean of the magnitudes is their expectation.

    Args:
        p: Exponent of the sphere, greater than 1; a number or an array.
        threshold: tau, in units of the neuron's mean magnitude, positive; a number or an array.
        shape: The constant a of the hypothesis.

    Returns:
        The fraction, in [0, 1]; a float, or an array of the broadcast shape. For tau below 1 it falls as p rises.

    Raises:
        TypeError: If an argument is not a number or an array of numbers.
        ValueError: If p is not greater than 1, the threshold or ``shape`` not positive, or one is not finite.

    Source: Method, section 3; beyond the paper.

    Example:
        >>> round(weak_fraction(1.2, 0.2), 3)
        0.58
    """
    return plain(_weak(gamma_shape(p, shape), tau_of(threshold)))


@overload
def p_for_sparsity(s: float, threshold: float = 0.2, shape: float = GAMMA_SHAPE) -> float: ...
@overload
def p_for_sparsity(s: Array, threshold: float | Array = 0.2, shape: float = GAMMA_SHAPE) -> Floats: ...
@overload
def p_for_sparsity(s: float, threshold: Array, shape: float = GAMMA_SHAPE) -> Floats: ...
def p_for_sparsity(s: float | Array, threshold: float | Array = 0.2, shape: float = GAMMA_SHAPE) -> float | Floats:
    """The exponent at which the fraction ``s`` of the connections is weak: the inverse of `weak_fraction` in p.

    Not the p to train with: it comes so near to 1 (1.024 at s = 0.9, 1.0015 at 0.99) that float32 weights underflow.

    Args:
        s: Weak fraction, between 0 and 1; a number or an array.
        threshold: tau, in units of the neuron's mean magnitude, between 0 and 1; a number or an array.
        shape: The constant a of the hypothesis.

    Returns:
        p, greater than 1; a float, or an array of the broadcast shape.

    Raises:
        TypeError: If an argument is not a number or an array of numbers.
        ValueError: If s or the threshold is not between 0 and 1, ``shape`` not positive, or no p from 1 + 1e-9 to 1e6
            gives s.

    Source: Method, section 3; beyond the paper.

    Example:
        >>> round(p_for_sparsity(0.9), 3)
        1.024
    """
    tau, values, shape = tau_of(threshold), between_0_and_1(s, "s, the weak fraction,"), constant(shape)
    if not (tau < 1).all():
        raise ValueError(
            f"p for a weak fraction needs a threshold below 1, got {first(tau[tau >= 1])}: only then does the weak "
            "fraction fall from 1 to 0 as p rises, so that one p belongs to each fraction; take 0.2, for example"
        )
    return plain(
        _exponents(
            lambda k, tau: float(_weak(k, tau)), values, tau, shape, "a weak fraction of {!r} under the threshold {:g}"
        )
    )


@overload
def threshold_for_sparsity(s: float, p: float, shape: float = GAMMA_SHAPE) -> float: ...
@overload
def threshold_for_sparsity(s: Array, p: float | Array, shape: float = GAMMA_SHAPE) -> Floats: ...
@overload
def threshold_for_sparsity(s: float, p: Array, shape: float = GAMMA_SHAPE) -> Floats: ...
def threshold_for_sparsity(s: float | Array, p: float | Array, shape: float = GAMMA_SHAPE) -> float | Floats:
    """The threshold under which the fraction ``s`` of the connections lies: the inverse of `weak_fraction` in tau.

    Args:
        s: Weak fraction, between 0 and 1; a number or an array.
        p: Exponent of the sphere, greater than 1; a number or an array.
        shape: The constant a of the hypothesis.

    Returns:
        tau, in units of the neuron's mean magnitude, positive; a float, or an array of the broadcast shape.

    Raises:
        TypeError: If an argument is not a number or an array of numbers.
        ValueError: If s is not between 0 and 1, p not greater than 1 or ``shape`` not positive; and where p is so near
            to 1 that the square of the threshold underflows in float64.

    Source: Method, section 3; beyond the paper.

    Example:
        >>> round(threshold_for_sparsity(0.9, 1.2), 3)
        3.4
    """
    values, k = np.broadcast_arrays(between_0_and_1(s, "s, the weak fraction,"), gamma_shape(p, shape))
    square = scipy.special.gammaincinv(k, values)
    lost = ~(square >= np.finfo(np.float64).tiny)
    if lost.any():
        exponent = 1 + first(k[lost]) / shape
        raise ValueError(
            f"the threshold for s = {first(values[lost]):g} at p = {exponent:g} underflows in float64: so near to 1, "
            "that fraction of the weights is 0 in every practical sense; take a larger p or s"
        )
    return plain(np.sqrt(square * (1 + delta(k)) / k))


def _expected(k: Floats, n: Floats) -> Floats:
    """E[H]. With x = E[R]^2/n = (1 + delta(n k)) / (1 + delta(k)) nothing cancels where E[H] is small."""
    delta_k, delta_nk = delta(k), delta(n * k)
    x = (1 + delta_nk) / (1 + delta_k)
    return np.asarray(np.sqrt(n) * (delta_k - delta_nk) / (1 + delta_k) / (1 + np.sqrt(x)) / (np.sqrt(n) - 1))


def _weak(k: Floats, tau: Floats) -> Floats:
    return np.asarray(scipy.special.gammainc(k, tau**2 * k / (1 + delta(k))))


def _exponents(
    function: Callable[[Floats, Floats], float], values: Floats, others: Floats, shape: float, what: str
) -> Floats:
    """The p with function(shape (p - 1), other) = value, which falls as p rises, for every pair."""

    def solve(value: float, other: float) -> float:
        # The logarithm keeps small values accurate; one that underflows is above any target that is a normal number.
        def difference(u: float) -> float:
            reached = function(np.asarray(shape * math.exp(u)), np.asarray(other))
            return math.log(max(reached, 5e-324)) - math.log(value)

        low, high = math.log(_LOWEST), math.log(_HIGHEST)
        if not difference(low) >= 0 >= difference(high):
            raise ValueError(
                f"no p between 1 + {_LOWEST:g} and {_HIGHEST:g} gives {what.format(value, other)}: "
                f"take a value further from {0 if difference(high) > 0 else 1}"
            )
        return 1 + math.exp(root(difference, low, high))

    pairs = np.broadcast(values, others)
    return np.array([solve(float(v), float(o)) for v, o in pairs], dtype=np.float64).reshape(pairs.shape)
