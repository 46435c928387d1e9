"""Which weights of a network are neurons, where in their tensor the neurons lie, and which rule is theirs."""

from lpsphere.neurons.layouts import Layout, NeuronLayout, SegmentLayout, SparseLayer
from lpsphere.neurons.selection import (
    LpSphereWarning,
    NeuronWeight,
    Radius,
    Rule,
    check_radius,
    select,
    without_norm,
)

__all__ = [
    "Layout",
    "LpSphereWarning",
    "NeuronLayout",
    "NeuronWeight",
    "Radius",
    "Rule",
    "SegmentLayout",
    "SparseLayer",
    "check_radius",
    "select",
    "without_norm",
]
