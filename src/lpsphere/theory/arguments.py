"""Arguments of the theory as arrays, checked; each error names the value and the remedy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lpsphere.geometry import check_exponent

__all__ = [
    "GAMMA_SHAPE",
    "Array",
    "Floats",
    "between_0_and_1",
    "connections",
    "constant",
    "first",
    "gamma_shape",
    "numbers",
    "plain",
    "tau_of",
]

GAMMA_SHAPE = 0.4
"""a in k = a (p - 1): the shape of the Gamma law of squared weights in the paper's hypothesis."""

Array = NDArray[Any]
Floats = NDArray[np.float64]


def plain(values: Floats) -> float | Floats:
    """A float for a single value."""
    return float(values) if values.ndim == 0 else values


def first(values: Array) -> float:
    """The first value, for an error that names one."""
    return float(values.flat[0])


def numbers(value: object, name: str) -> Floats:
    """Numbers, arrays and tensors as float64; TypeError for what is none."""
    if isinstance(value, Tensor):
        value = (value.double() if value.is_floating_point() else value).detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        got = f"an array of {array.dtype}" if array.ndim else repr(value)
        raise TypeError(f"{name} must be a number or an array of numbers, got {got}")
    return array.astype(np.float64)


def gamma_shape(p: object, shape: object) -> Floats:
    """The shape k = a (p - 1) of the Gamma law."""
    exponents = numbers(p, "p")
    wrong = exponents[~(np.isfinite(exponents) & (exponents > 1))]
    if wrong.size:
        check_exponent(p if isinstance(p, int | float) else first(wrong))  # it raises, with its own words
    return np.asarray(constant(shape) * (exponents - 1))


def constant(shape: object) -> float:
    """The constant a of the hypothesis, positive."""
    value = numbers(shape, "shape")
    if value.ndim or not 0 < value < math.inf:
        raise ValueError(f"shape must be positive, got {shape}: {GAMMA_SHAPE} is the paper's")
    return float(value)


def connections(fan_in: object) -> Floats:
    """n, at least 2."""
    n = numbers(fan_in, "fan_in")
    wrong = n[~((n >= 2) & np.isfinite(n))]
    if wrong.size:
        raise ValueError(
            f"Hoyer's sparsity needs a fan_in of at least 2, got {first(wrong):g}: give the number of connections"
        )
    return n


def tau_of(threshold: object) -> Floats:
    """tau, positive, in units of the mean magnitude."""
    tau = numbers(threshold, "threshold")
    wrong = tau[~((tau > 0) & np.isfinite(tau))]
    if wrong.size:
        raise ValueError(
            f"threshold must be positive and finite, got {first(wrong):g}: it is in units of the mean magnitude"
        )
    return tau


def between_0_and_1(value: object, name: str) -> Floats:
    """Values strictly between 0 and 1."""
    values = numbers(value, name)
    wrong = values[~((values > 0) & (values < 1))]
    if wrong.size:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {first(wrong):g}")
    return values
