"""Sparse evolutionary training: drop the smallest weights, grow as many at random."""

from __future__ import annotations

from torch import Tensor

from lpsphere.neurons import NeuronWeight
from lpsphere.topology.base import Topology

__all__ = ["SET"]


class SET(Topology):
    r"""Sparse evolutionary training: after a gradient step the smallest \|w\| of each layer give way to random ones.

    The arguments are the base's. Sparsity and each layer's density are constant.

    Source: D. C. Mocanu et al., Nature Communications 9:2383, 2018; with the half-cosine drop fraction, and growth
    among all connections that are not kept, of the implementation published with RigL (Evci et al., 2020).
    """

    uses_gradient = False
    grows_at_random = True

    def drop_scores(self, neuron: NeuronWeight, mask: Tensor) -> Tensor:
        """The magnitudes of the weights."""
        return neuron.weight.abs()

    def grow_scores(self, neuron: NeuronWeight, gradient: Tensor) -> Tensor:
        """Uniformly random."""
        return self.random(neuron, gradient)
