"""LpSGD, slow: one neuron at a time, float64, in the notation of the method (section 2). The tests' oracle.

Shares nothing with the fast implementation, not even the norms.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ReferenceLpSGD"]

Rows = NDArray[np.float64]


def norm(x: Rows, p: float) -> float:
    """``||x||_p`` of one vector; 0 for an empty or zero one."""
    largest = float(np.max(np.abs(x), initial=0.0))
    if largest == 0:
        return 0.0
    return float(largest * np.sum((np.abs(x) / largest) ** p) ** (1 / p))


def J(x: Rows, p: float) -> Rows:  # noqa: N802 - the method's name
    """Duality map ``J_p(x) = sign(x) |x|^(p-1)``."""
    return np.sign(x) * np.abs(x) ** (p - 1)


class ReferenceLpSGD:
    """The neurons of one weight matrix.

    Args:
        w: Weights, shape (neurons, fan_in).
        p: Exponent of the sphere.
        eta: Learning rate; an attribute that may be changed between steps.
        r: Radius, or None: each neuron keeps the norm it comes with.
        mu: Momentum.
        dampening: Dampening of the momentum.
        nesterov: Nesterov momentum.
        form: "dual" or "primal".
        mask: bool, True where the connection exists; None: everywhere.

    Attributes:
        w, v, m: Weights, dual weights and momentum, shape (neurons, fan_in).
    """

    def __init__(
        self,
        w: Rows,
        p: float,
        eta: float,
        *,
        r: float | None = 1.0,
        mu: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        form: str = "dual",
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        self.p, self.q, self.eta = p, p / (p - 1), eta
        self.mu, self.dampening, self.nesterov, self.form = mu, dampening, nesterov, form
        self.mask = np.ones(w.shape, dtype=bool) if mask is None else mask
        self.w: Rows = np.where(self.mask, w, 0.0).astype(np.float64)
        self.v: Rows = np.zeros_like(self.w)
        self.m: Rows | None = None
        self.r = [norm(w_i, p) if r is None else r for w_i in np.asarray(w, np.float64)]
        for i, w_i in enumerate(self.w):
            size = norm(w_i, p)
            if size > 0:
                self.v[i] = J(w_i / size, p)
                self.w[i] = self.r[i] * w_i / size

    def step(self, g: Rows) -> None:
        """One step of every neuron along the gradient ``g``, shape (neurons, fan_in)."""
        g = np.where(self.mask, g, 0.0)
        if self.mu == 0:
            d = g
        else:
            self.m = g.copy() if self.m is None else self.mu * self.m + (1 - self.dampening) * g
            d = g + self.mu * self.m if self.nesterov else self.m
        for i in range(len(g)):
            if self.form == "dual":
                self._dual_step(i, d[i])
            else:
                self._primal_step(i, d[i])

    def _dual_step(self, i: int, d: Rows) -> None:
        size = norm(d, self.q)
        if size == 0:
            return
        v = (1 - self.eta) * self.v[i] - self.eta * d / size
        if norm(v, self.q) == 0:
            return
        self.v[i] = v / norm(v, self.q)
        self.w[i] = self.r[i] * J(self.v[i], self.q)

    def _primal_step(self, i: int, d: Rows) -> None:
        size = norm(d, self.q)
        if size == 0:
            return
        w = (1 - self.eta) * self.w[i] / self.r[i] - self.eta * J(d / size, self.q)
        if norm(w, self.p) == 0:
            return
        self.w[i] = self.r[i] * w / norm(w, self.p)
        self.v[i] = J(self.w[i] / self.r[i], self.p)
