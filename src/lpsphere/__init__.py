"""Sparse neural networks from scratch: every neuron's weights on the unit Lp sphere, with p as the dial."""

from lpsphere import geometry, theory
from lpsphere.metrics import stationarity, summary
from lpsphere.neurons import LpSphereWarning, NeuronLayout, Rule, param_groups
from lpsphere.optim import LpSGD
from lpsphere.topology import SemiPruning

__all__ = [
    "LpSGD",
    "LpSphereWarning",
    "NeuronLayout",
    "Rule",
    "SemiPruning",
    "geometry",
    "param_groups",
    "stationarity",
    "summary",
    "theory",
]
