"""Methods that decide which connections exist."""

from collections.abc import Mapping

from lpsphere.topology.averaging import masked_average
from lpsphere.topology.base import Event, Pool, Topology
from lpsphere.topology.gmp import GMP
from lpsphere.topology.masks import apply_masks
from lpsphere.topology.rigl import RigL
from lpsphere.topology.semi_pruning import SemiPruning
from lpsphere.topology.set import SET
from lpsphere.topology.snip import SNIP
from lpsphere.topology.static import Static

__all__ = [
    "GMP",
    "METHODS",
    "SET",
    "SNIP",
    "Event",
    "Pool",
    "RigL",
    "SemiPruning",
    "Static",
    "Topology",
    "apply_masks",
    "masked_average",
]

METHODS: Mapping[str, type[Topology]] = {
    "static": Static,
    "set": SET,
    "rigl": RigL,
    "snip": SNIP,
    "gmp": GMP,
    "semi-pruning": SemiPruning,
}
"""The methods by the names that configurations and the command line use."""
