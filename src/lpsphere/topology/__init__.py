"""Methods that decide which connections exist."""

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
