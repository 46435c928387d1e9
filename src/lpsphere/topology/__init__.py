"""Methods that decide which connections exist."""

from lpsphere.topology.base import Event, Topology
from lpsphere.topology.semi_pruning import SemiPruning

__all__ = ["Event", "SemiPruning", "Topology"]
