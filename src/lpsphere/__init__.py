"""Sparse neural networks from scratch: every neuron's weights on the unit Lp sphere, with p as the dial."""

from lpsphere import geometry, theory
from lpsphere.groups import param_groups
from lpsphere.metrics import stationarity, summary
from lpsphere.neurons import LpSphereWarning, NeuronLayout, Rule
from lpsphere.optim import HoyerControl, LpSGD
from lpsphere.prediction import predict
from lpsphere.topology import GMP, SET, SNIP, RigL, SemiPruning, Static, Topology, apply_masks, masked_average

__all__ = [
    "GMP",
    "SET",
    "SNIP",
    "HoyerControl",
    "LpSGD",
    "LpSphereWarning",
    "NeuronLayout",
    "RigL",
    "Rule",
    "SemiPruning",
    "Static",
    "Topology",
    "apply_masks",
    "geometry",
    "masked_average",
    "param_groups",
    "predict",
    "stationarity",
    "summary",
    "theory",
]
