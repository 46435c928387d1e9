"""Hoyer's sparsity, and its expectation from p under the gamma hypothesis (method, section 3).

Pure functions of tensors and numbers; nothing here knows of networks or optimizers.
"""

from __future__ import annotations

import math

import torch
from scipy.special import poch
from torch import Tensor

from lpsphere.geometry import check_exponent

__all__ = ["GAMMA_SHAPE", "expected_hoyer", "hoyer"]

GAMMA_SHAPE = 0.4
"""a in k = a (p - 1): the shape of the Gamma law of squared weights in the paper's hypothesis."""


def hoyer(x: Tensor, count: Tensor | None = None) -> Tensor:
    """Hoyer's sparsity ``(sqrt(n) - ||x||_1 / ||x||_2) / (sqrt(n) - 1)`` of each row.

    Args:
        x: Rows, shape (..., n), floating point.
        count: How many entries of each row count as its length n, shape (...); None: all. Entries beyond
            those counted must be zero, such as the inactive connections of a neuron.

    Returns:
        Shape (...), in [0, 1]: 0 for equal magnitudes, 1 for a one-hot row; NaN where it is undefined, that is
        for zero rows and for n < 2. At least float32.

    Source: P. O. Hoyer, JMLR 5, 2004.
    """
    rows = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    largest = rows.abs().amax(-1, keepdim=True)
    scaled = rows / torch.where(largest > 0, largest, torch.ones_like(largest))
    ratio = scaled.abs().sum(-1) / scaled.square().sum(-1).sqrt()
    n = torch.full_like(ratio, x.shape[-1]) if count is None else count.to(ratio)
    root = n.sqrt()
    value = (root - ratio) / (root - 1)
    return torch.where(n >= 2, value.clamp(0, 1), torch.full_like(value, math.nan))


def expected_hoyer(p: float, fan_in: float, shape: float = GAMMA_SHAPE) -> float:
    """Expected Hoyer's sparsity of a neuron on the Lp sphere, before any training.

    Exact under the hypothesis that the squared weights are independent Gamma variables of shape k = shape (p - 1).

    Args:
        p: Exponent of the sphere, greater than 1.
        fan_in: Number of connections of the neuron, n >= 2.
        shape: The constant a of the hypothesis.

    Returns:
        E[H] in [0, 1], dimensionless.

    Raises:
        ValueError: If p is not greater than 1, ``fan_in`` below 2 or ``shape`` not positive.

    Source: arXiv:2103.16013; method, section 3.

    Example:
        >>> round(expected_hoyer(1.2, 144), 5)
        0.59139
    """
    p = check_exponent(p)
    if not fan_in >= 2:
        raise ValueError(f"Hoyer's sparsity needs a fan_in of at least 2, got {fan_in}")
    if not shape > 0:
        raise ValueError(f"shape must be positive, got {shape}")
    k = shape * (p - 1)
    ratio = fan_in * poch(k, 0.5) / poch(fan_in * k, 0.5)
    return float((math.sqrt(fan_in) - ratio) / (math.sqrt(fan_in) - 1))
