"""Optimizers on the unit Lp sphere."""

from lpsphere.optim.lpsgd import LpSGD

__all__ = ["LpSGD"]
