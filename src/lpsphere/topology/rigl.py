"""RigL, the rigged lottery: drop the smallest weights, grow as many where the gradient is largest."""

from __future__ import annotations

from torch import Tensor

from lpsphere.neurons import NeuronWeight
from lpsphere.topology.base import Topology

__all__ = ["RigL"]


class RigL(Topology):
    r"""RigL: the smallest \|w\| of each layer give way to the connections of largest gradient.

    The arguments are the base's. Sparsity and each layer's density are constant. An update takes the place of the
    gradient step: at that step no parameter moves, biases included.

    Source: U. Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020, arXiv:1911.11134.
    """

    replaces_step = True

    def drop_scores(self, neuron: NeuronWeight, mask: Tensor) -> Tensor:
        """The magnitudes of the weights."""
        return neuron.weight.abs()

    def grow_scores(self, neuron: NeuronWeight, gradient: Tensor) -> Tensor:
        """The magnitudes of the gradient."""
        return gradient.abs()
