"""Optimizers on the unit Lp sphere."""

from lpsphere.optim.hoyer_control import HoyerControl
from lpsphere.optim.lpsgd import LpSGD
from lpsphere.optim.two_kinds import SpheresAndAdamW

__all__ = ["HoyerControl", "LpSGD", "SpheresAndAdamW"]
