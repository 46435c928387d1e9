"""Sparse neural networks from scratch: every neuron's weights on the unit Lp sphere, with p as the dial."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lpsphere import geometry, theory
from lpsphere.groups import param_groups
from lpsphere.metrics import stationarity, summary
from lpsphere.neurons import LpSphereWarning, NeuronLayout, Rule
from lpsphere.optim import HoyerControl, LpSGD, SpheresAndAdamW
from lpsphere.prediction import predict
from lpsphere.topology import GMP, SET, SNIP, RigL, SemiPruning, Static, Topology, apply_masks, masked_average

if TYPE_CHECKING:
    from lpsphere import sparse
    from lpsphere.sparse import compact, export, load_export

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
    "SpheresAndAdamW",
    "Static",
    "Topology",
    "apply_masks",
    "compact",
    "export",
    "geometry",
    "load_export",
    "masked_average",
    "param_groups",
    "predict",
    "sparse",
    "stationarity",
    "summary",
    "theory",
]


def __getattr__(name: str) -> Any:
    """What is imported when it is first asked for: training alone does not need it."""
    if name not in ("compact", "export", "load_export", "sparse"):
        raise AttributeError(f"module 'lpsphere' has no attribute {name!r}")
    sparse = import_module("lpsphere.sparse")
    return sparse if name == "sparse" else getattr(sparse, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
