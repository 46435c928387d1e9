"""What the gamma hypothesis expects of a network's layers, before any training (method, section 3).

Reads models and optimizers; changes nothing. `metrics.summary` shows what came of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from lpsphere.distributed import whole
from lpsphere.geometry import check_exponent
from lpsphere.neurons import NeuronWeight, Rule, select
from lpsphere.text import cell, table
from lpsphere.theory import expected_hoyer, hoyer_std, weak_fraction

__all__ = ["LayerPrediction", "Prediction", "predict"]


@dataclass(frozen=True)
class LayerPrediction:
    """One selected weight tensor.

    Attributes:
        layer: Parameter name.
        neurons: Number of neurons.
        fan_in: Weights of each.
        p: Exponent of its spheres; None: not on a sphere, and nothing is predicted.
        connections: Connections of a neuron, mean over the neurons with two or more; None: there are none.
        hoyer: Expected Hoyer's sparsity over the connections, mean over the same neurons; None without them or p.
        hoyer_std: Standard deviation of the Hoyer's sparsity of one of these neurons, drawn at random.
        weak_fraction: Expected fraction of connections with a magnitude under the threshold; None without p.
    """

    layer: str
    neurons: int
    fan_in: int
    p: float | None
    connections: float | None
    hoyer: float | None
    hoyer_std: float | None
    weak_fraction: float | None


@dataclass(frozen=True)
class Prediction:
    """The selected weights of a network; ``print`` shows a table.

    Attributes:
        layers: One entry for each selected weight tensor.
        threshold: tau of the weak fraction, in units of a neuron's mean magnitude.
    """

    layers: tuple[LayerPrediction, ...]
    threshold: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"threshold": self.threshold, "layers": [asdict(layer) for layer in self.layers]}

    def __str__(self) -> str:
        """A table, one line a layer."""
        header = ("layer", "neurons", "fan-in", "connections", "p", "Hoyer", "spread", f"weak < {self.threshold:g}")
        rows = [
            (
                layer.layer,
                f"{layer.neurons:,}",
                f"{layer.fan_in:,}",
                cell(layer.connections, ",.4g" if (layer.connections or 0) < 1000 else ",.0f"),
                cell(layer.p, "g"),
                cell(layer.hoyer, ".3f"),
                cell(layer.hoyer_std, ".3f"),
                cell(layer.weak_fraction, ".3f"),
            )
            for layer in self.layers
        ]
        return table(header, rows)


def predict(
    model: nn.Module,
    p: float | None = None,
    optimizer: Optimizer | None = None,
    *,
    threshold: float = 0.2,
    rules: Sequence[Rule] | None = None,
    include_last: bool = False,
) -> Prediction:
    """What p should make of each layer under the gamma hypothesis, whatever values its weights have.

    A connection is what it is in `metrics.summary`: a True mask entry, or a weight that is not zero where there is no
    mask; a weight tensor of zeros without a mask counts as dense, since it says nothing yet.

    Args:
        model: Any module, with masks or without.
        p: Exponent of the spheres, greater than 1, where no rule says otherwise.
        optimizer: Its optimizer, for the p of its groups; give this or p, not both.
        threshold: tau of the weak fraction, in units of a neuron's mean magnitude, positive.
        rules: Those given to `param_groups`, for the same selection; their p counts where there is no optimizer.
        include_last: Show the output layer too; one that the optimizer has on a sphere is always shown.

    Returns:
        Rows per layer; ``print`` shows a table.

    Raises:
        TypeError: If p or the threshold is not a number.
        ValueError: If neither p nor an optimizer is given, or both; if p or the threshold is out of its range; if the
            model has no weight to select, or none of them is on a sphere.

    Source: Method, section 3; the spread and the weak fraction are beyond the paper.
    """
    if isinstance(p, Optimizer):
        raise TypeError("p must be a number greater than 1, got an optimizer: pass it as optimizer=...")
    if (p is None) == (optimizer is None):
        given = "neither" if p is None else "both"
        raise ValueError(f"predict needs p, such as 1.2, or the optimizer that holds it: got {given}")
    default = None if p is None else check_exponent(p)
    groups = [] if optimizer is None else optimizer.param_groups
    spheres = {id(param): group["p"] for group in groups if group.get("p") is not None for param in group["params"]}
    shown = {neuron.name for neuron in select(model, rules, include_last)}
    layers = []
    for neuron in select(model, rules, include_last=True):
        if neuron.name in shown or id(neuron.parameter) in spheres:
            exponent = spheres.get(id(neuron.parameter)) if optimizer is not None else _exponent(neuron, default)
            layers.append(_predict(neuron, exponent, threshold))
    if all(layer.p is None for layer in layers):
        raise ValueError(
            "none of the selected weights is on a sphere: give p, rules that leave one there, or the "
            "optimizer made from param_groups"
        )
    return Prediction(tuple(layers), float(threshold))


def _exponent(neuron: NeuronWeight, default: float | None) -> float | None:
    return default if neuron.rule is None or neuron.rule.p == "default" else neuron.rule.p


@torch.no_grad()
def _connections(neuron: NeuronWeight) -> Tensor:
    """The number of connections of each neuron, shape (neurons,)."""
    mask = neuron.module._buffers.get(f"{neuron.attribute}_mask")
    active = whole(neuron.parameter) != 0 if mask is None else whole(mask)
    if mask is None and not active.any():
        active = torch.ones_like(active)
    return neuron.layout.to_rows(active).sum(-1)


def _predict(neuron: NeuronWeight, p: float | None, threshold: float) -> LayerPrediction:
    counts = _connections(neuron)
    sizes, times = torch.unique(counts[counts >= 2], return_counts=True)
    connections = hoyer = spread = None
    if len(sizes):
        n, share = sizes.cpu().double().numpy(), (times.double() / times.sum()).cpu().numpy()
        connections = float((share * n).sum())
        if p is not None:
            expected, std = expected_hoyer(p, n), hoyer_std(p, n)
            hoyer = float((share * expected).sum())
            spread = math.sqrt((share * (std**2 + (expected - hoyer) ** 2)).sum())  # within sizes and between them
    return LayerPrediction(
        layer=neuron.name,
        neurons=neuron.neurons,
        fan_in=neuron.fan_in,
        p=p,
        connections=connections,
        hoyer=hoyer,
        hoyer_std=spread,
        weak_fraction=None if p is None else weak_fraction(p, threshold),
    )
