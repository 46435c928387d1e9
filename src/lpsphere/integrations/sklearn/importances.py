"""How much of what a network says depends on each input, read off its connections."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lpsphere.models import MLP

__all__ = ["path_importances"]


@torch.no_grad()
def path_importances(model: MLP) -> NDArray[np.float64]:
    """The total strength of the paths from each input to the outputs, as fractions of all.

    The strength of a path is the product of the magnitudes of its connections, each neuron's multiplied by what its
    batch norm multiplies with; a connection that does not exist carries nothing. So an input's importance is the sum of
    |w| over its connections to the first layer, each weighted by how strongly that neuron is connected to the outputs.
    Signs do not cancel: paths that compensate for each other count fully. Inputs must be of comparable scale.

    Args:
        model: A network with batch norm.

    Returns:
        Shape (in_features,), at least 0, with sum 1, or 0 where no path exists.
    """
    reach = model.head.weight.double().abs().sum(0)
    for layer in reversed(list(model.hidden)):
        linear, norm = layer.get_submodule("linear"), layer.get_submodule("norm")
        assert isinstance(linear, nn.Linear)
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_var is not None
        gain = norm.weight.double().abs() / (norm.running_var.double() + norm.eps).sqrt()
        reach = (reach * gain) @ linear.weight.double().abs()
    total = reach.sum()
    found: NDArray[np.float64] = (reach / total if total > 0 else reach).numpy()
    return found
