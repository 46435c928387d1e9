"""Layers that hold only their connections: where these are, and exchanging them without losing an optimizer's state.

A *place* is row * fan_in + column: the index of a connection in the dense weight, flattened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from lpsphere.geometry import row_sums, spread
from lpsphere.memory import give_back, scratch
from lpsphere.neurons import NeuronWeight, SegmentLayout, SparseLayer
from lpsphere.topology.growth import absent_from

__all__ = [
    "Reconnection",
    "clear_misfits",
    "fresh_values",
    "has_places",
    "layer_of",
    "places_of",
    "reconnect",
    "saved_places",
    "saved_structure",
    "sparse_mask",
]


def has_places(neuron: NeuronWeight) -> bool:
    """Whether the layer holds only its connections."""
    return isinstance(neuron.layout, SegmentLayout)


def layer_of(neuron: NeuronWeight) -> SparseLayer:
    """The layer, of which `has_places` says that it holds only its connections."""
    assert isinstance(neuron.layout, SegmentLayout)
    return neuron.layout.layer


def places_of(neuron: NeuronWeight) -> Tensor:
    """The places of its connections, int64, shape (connections,), ascending."""
    layer = layer_of(neuron)
    return _places(layer.row_pointers, layer.columns, layer.in_features)


def _places(pointers: Tensor, columns: Tensor, fan_in: int) -> Tensor:
    starts = torch.arange(len(pointers) - 1, device=pointers.device).mul_(fan_in)
    if not columns.is_cpu:
        return starts.repeat_interleave(pointers.diff()).add_(columns)
    rows = torch.arange(len(starts), dtype=torch.int32).repeat_interleave(pointers.diff())
    return torch.index_select(starts, 0, rows, out=scratch(len(columns), torch.int64)).add_(columns)


def sparse_mask(neuron: NeuronWeight) -> Tensor:
    """Its mask, as a bool tensor in torch's COO format, shape (neurons, fan_in)."""
    places, fan_in = places_of(neuron), neuron.fan_in
    ones = torch.ones_like(places, dtype=torch.bool)
    return torch.sparse_coo_tensor(
        torch.stack([places // fan_in, places % fan_in]), ones, neuron.shape, is_coalesced=True, check_invariants=False
    )


def saved_structure(neuron: NeuronWeight) -> dict[str, Any]:
    """Its connections, in plain values, for `saved_places`."""
    layer = layer_of(neuron)
    return {
        "shape": list(neuron.shape),
        "row_pointers": layer.row_pointers.clone(),
        "columns": layer.columns.clone(),
    }


def saved_places(saved: dict[str, Any]) -> Tensor:
    """The places of saved connections, int64, ascending."""
    return _places(saved["row_pointers"], saved["columns"], saved["shape"][1])


def fresh_values(neuron: NeuronWeight, connections: int, seed: int) -> Tensor:
    """Values for new connections of an untrained layer: uniform, with the root mean square of those that it has."""
    weight = neuron.weight.detach()
    size = weight.double().square().mean().sqrt().item() if weight.numel() else 0.0
    reach = 3**0.5 * size if size > 0 else neuron.fan_in**-0.5
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(connections, generator=generator, dtype=torch.float64) - 1) * reach


@dataclass(frozen=True)
class Reconnection:
    """The connections that a layer is to have, and what they have been.

    Attributes:
        rows: Their neurons, int32, shape (connections,), ascending.
        columns: The features they come from, likewise, ascending within a neuron.
        source: Which connection each has been, int32, likewise; 0 where it is new.
        new: Whether it is, bool, likewise.
        kept: Which of the connections before stay, bool.
        grown: Which of those that were grown are new, bool; the others were dropped and have come back.
    """

    rows: Tensor
    columns: Tensor
    source: Tensor
    new: Tensor
    kept: Tensor
    grown: Tensor

    @classmethod
    def of(cls, neuron: NeuronWeight, kept: Tensor, grown: Tensor) -> Reconnection:
        """From which connections of a layer stay, bool, and the other places where it gets one, int64, ascending."""
        from lpsphere.kernels.selection import merge

        layer, kept = layer_of(neuron), kept.to("cpu", copy=True)
        grown = grown.cpu()
        count = int(kept.sum()) + len(grown)
        merged, source = torch.empty((2, count), dtype=torch.int32), torch.empty(count, dtype=torch.int32)
        new = torch.empty(grown.shape, dtype=torch.bool)
        pointers, columns = layer.row_pointers.cpu().numpy(), layer.columns.cpu().numpy()
        results = [tensor.numpy() for tensor in (merged, source, new)]
        merge(pointers, columns, kept.numpy(), grown.numpy(), neuron.fan_in, *results)
        device = neuron.weight.device
        return cls(*(t.to(device) for t in (*merged, source.clamp(min=0), source < 0, kept, new)))

    @classmethod
    def to_places(cls, neuron: NeuronWeight, places: Tensor) -> Reconnection:
        """From the places where a layer is to have its connections, int64, ascending."""
        before = places_of(neuron)
        return cls.of(neuron, ~absent_from(before, places), places[absent_from(places, before)])

    def carried(self, value: Tensor, fresh: float = 0.0) -> Tensor:
        """Values of the connections before as values of those now, ``fresh`` for new ones."""
        if not len(value):
            return value.new_full(self.new.shape, fresh)
        return value.index_select(0, self.source).masked_fill_(self.new, fresh)


@torch.no_grad()
def reconnect(
    optimizer: Optimizer | None,
    neuron: NeuronWeight,
    now: Reconnection,
    fresh_state: Callable[[str, Tensor], float],
    *,
    starts: Tensor | None = None,
    values: Tensor | None = None,
) -> tuple[int, int]:
    """Exchange the connections of a layer; what stays keeps its weight and its state in the optimizer.

    Neurons on spheres that lose or gain something return to them; the others stay as they are, to the last bit.

    Args:
        optimizer: Has the weight; one that knows masks is told what goes, before it goes. None: its state is of these
            connections already.
        neuron: The layer.
        now: Its connections.
        fresh_state: What a tensor of the optimizer's state begins with, by its key and the weight.
        starts: Where new connections start, in units of their neuron's mean |v|, shape (connections,); None: at 0.
        values: The weights of new connections, one for each, instead; for a layer that is not trained yet.

    Returns:
        How many connections exist no more, and how many are new.
    """
    weight, gradient = neuron.weight, neuron.weight.grad
    on_topology = getattr(optimizer, "on_topology", None)
    on_spheres = on_topology is not None and bool(on_topology(weight, now.kept))
    layer_of(neuron).set_structure(now.rows, now.columns, now.carried(weight.detach()))
    weight.grad = None if gradient is None else now.carried(gradient)
    if on_topology is not None:
        on_topology(weight, None)  # that mask was of the old connections
    state = {} if optimizer is None else optimizer.state.get(weight, {})
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == now.kept.shape:
            state[key] = now.carried(value, fresh_state(key, weight))
    if values is not None:
        weight[now.new] = values.to(weight)
    give_back()
    if on_spheres and on_topology is not None:  # also where nothing is new: it sees now that others wrote the weight
        on_topology(weight, torch.ones_like(weight, dtype=torch.bool), starts)
        on_topology(weight, None)
    elif starts is not None:
        dims = neuron.layout.fan_in_dims(weight)
        size = weight.abs().to(torch.promote_types(weight.dtype, torch.float32))
        mean = row_sums(size, dims) / row_sums((size != 0).to(size), dims).clamp(min=1)
        weight.add_(starts * spread(mean, dims))
    return int((~now.kept).sum()), int(now.new.sum())


def clear_misfits(optimizer: Optimizer, neuron: NeuronWeight) -> None:
    """Forget the optimizer's state of a layer if it is of other connections, which somebody else has exchanged."""
    weight = neuron.weight
    state = optimizer.state.get(weight, {})
    if any(isinstance(v, Tensor) and v.ndim == 1 and v.shape != weight.shape for v in state.values()):
        state.clear()
