"""Optimizers on the unit Lp sphere."""

from lpsphere.optim.hoyer_control import HoyerControl
from lpsphere.optim.lpsgd import LpSGD

__all__ = ["HoyerControl", "LpSGD"]
