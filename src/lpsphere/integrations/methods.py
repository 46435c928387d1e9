"""What the adapters share: a topology method by its name, attached anew or to what was restored.

Knows models, optimizers and methods; no other library.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from lpsphere.metrics import summary
from lpsphere.topology import METHODS, Topology
from lpsphere.topology.checks import unwrap
from lpsphere.topology.masks import buffer_name

__all__ = ["attach", "find_method", "hoyer_by_layer", "leave_masks_out"]


def find_method(method: str | type[Topology]) -> type[Topology]:
    """A method from its name, or the class itself.

    Raises:
        TypeError: If it is neither.
        ValueError: If there is none of that name.
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}: choose from {', '.join(METHODS)}, or give a Topology class")
        return METHODS[method]
    if isinstance(method, type) and issubclass(method, Topology):
        return method
    raise TypeError(f"method must be a name such as 'semi-pruning' or a Topology class, got {method!r}")


@torch.no_grad()
def attach(
    make: Callable[[], Topology], model: nn.Module, optimizer: Optimizer, saved: dict[str, Any] | None = None
) -> Topology:
    """Attach a method; its masks are left out of the model's ``state_dict``, since its own state holds them.

    Args:
        make: Makes the method, with the model and the optimizer.
        model: The model.
        optimizer: The optimizer, wrapped or not.
        saved: Where the method is to go on: its ``state_dict()``. Weights and optimizer state, restored before, stay as
            they are.

    Returns:
        The method.

    Raises:
        ValueError: If the state is another method's or another network's.
    """
    if saved is None:
        topology = make()
    else:
        weights = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer = unwrap(optimizer)
        state = {parameter: _copies(own) for parameter, own in optimizer.state.items()}
        topology = make()
        topology.load_state_dict(saved)  # first, since layers that hold only their connections get their sizes by it
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.copy_(weight)
        optimizer.state.clear()
        optimizer.state.update(state)
    leave_masks_out(topology)
    return topology


def _copies(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value) for key, value in state.items()}


def leave_masks_out(topology: Topology) -> None:
    """Leave the masks out of the model's ``state_dict``, so that a model without the method can load it."""
    for neuron in topology.layers:
        neuron.module._non_persistent_buffers_set.add(buffer_name(neuron))


def hoyer_by_layer(topology: Topology) -> dict[str, float]:
    """Hoyer's sparsity of each layer's connections, mean over its neurons; layers without any are left out."""
    names = {neuron.name for neuron in topology.layers}
    layers = summary(topology.model, topology.optimizer, include_last=True).layers
    return {layer.layer: layer.hoyer for layer in layers if layer.layer in names and layer.hoyer is not None}
