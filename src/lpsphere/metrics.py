"""What to look at in a network: densities, Hoyer's sparsity, distance from the spheres, stationarity.

Reads models and optimizers; changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from lpsphere.geometry import conjugate, dual, lp_norm
from lpsphere.neurons import NeuronWeight, Rule, select
from lpsphere.text import cell, table
from lpsphere.theory import expected_hoyer, hoyer

__all__ = [
    "LayerStationarity",
    "LayerSummary",
    "Stationarity",
    "Summary",
    "connection_hoyer",
    "stationarity",
    "summary",
]


@dataclass(frozen=True)
class LayerSummary:
    r"""One selected weight tensor.

    Attributes:
        layer: Parameter name.
        neurons: Number of neurons.
        fan_in: Weights of each.
        p: Exponent of its spheres; None: not on a sphere.
        density: Connections over weights.
        connections: Connections that exist: True mask entries, non-zero weights where there is no mask, or all that
            a sparse layer holds.
        hoyer: Hoyer's sparsity over the connections, mean over neurons alive with two or more; None: there are none.
        hoyer_predicted: Its expectation from p and the number of connections, mean over the same; None without p.
        hoyer_full: Hoyer's sparsity over the full rows, inactive weights included, mean over neurons alive.
        sphere_error: Largest \| \|\|w\|\|_p - r \| over neurons alive; None without p.
        dead: Neurons without a connection, or with all weights 0.
        single: Neurons with one connection, fixed at +r or -r on a sphere.
        sparse: Whether it counts towards the network's sparsity; not where a rule keeps it dense, nor an output layer
            that is shown only because it is on a sphere.
    """

    layer: str
    neurons: int
    fan_in: int
    p: float | None
    density: float
    connections: int
    hoyer: float | None
    hoyer_predicted: float | None
    hoyer_full: float | None
    sphere_error: float | None
    dead: int
    single: int
    sparse: bool


@dataclass(frozen=True)
class Summary:
    """The selected weights of a network; ``print`` shows a table.

    Attributes:
        layers: One entry for each selected weight tensor.
        parameters: All parameters of the network, selected or not.
    """

    layers: tuple[LayerSummary, ...]
    parameters: int

    @property
    def weights(self) -> int:
        """N, the selected weights: those of the layers that count towards the sparsity."""
        return sum(layer.neurons * layer.fan_in for layer in self.layers if layer.sparse)

    @property
    def connections(self) -> int:
        """Connections that exist among the selected weights."""
        return sum(layer.connections for layer in self.layers if layer.sparse)

    @property
    def sparsity(self) -> float:
        """1 - connections / weights; 0 if rules keep every layer dense."""
        return 1 - self.connections / self.weights if self.weights else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "sparsity": self.sparsity,
            "connections": self.connections,
            "selected_weights": self.weights,
            "parameters": self.parameters,
            "layers": [asdict(layer) for layer in self.layers],
        }

    def __str__(self) -> str:
        """A table, one line a layer."""
        header = (
            "layer",
            "neurons",
            "fan-in",
            "p",
            "density",
            "Hoyer",
            "predicted",
            "full row",
            "| ||w||_p - r |",
            "dead",
            "single",
        )
        rows = [
            (
                layer.layer,
                f"{layer.neurons:,}",
                f"{layer.fan_in:,}",
                cell(layer.p, "g"),
                f"{layer.density:.4f}",
                cell(layer.hoyer, ".3f"),
                cell(layer.hoyer_predicted, ".3f"),
                cell(layer.hoyer_full, ".3f"),
                cell(layer.sphere_error, ".0e"),
                f"{layer.dead:,}",
                f"{layer.single:,}",
            )
            for layer in self.layers
        ]
        total = (
            f"sparsity {self.sparsity:.4f}: {self.connections:,} of {self.weights:,} selected weights are connections; "
            f"{self.parameters:,} parameters in all"
        )
        return f"{table(header, rows)}\n{total}"


@dataclass(frozen=True)
class LayerStationarity:
    """How far the neurons of one weight tensor are from a stationary point (method, section 2).

    Attributes:
        layer: Parameter name.
        multiplier: lambda = -<g, w>/r of each neuron, shape (neurons,).
        residual: ``||g + lambda J_p(w/r)||_q``, shape (neurons,); 0 exactly at a stationary point.
        relative_residual: residual / ``||g||_q``, 0 where g is 0; shape (neurons,).
        alignment: -<g, w> / (r ``||g||_q``), in [-1, 1]; shape (neurons,).
        gap: r ``||g||_q`` + <g, w>, the Frank-Wolfe gap over the ball, at least 0; shape (neurons,).
    """

    layer: str
    multiplier: Tensor
    residual: Tensor
    relative_residual: Tensor
    alignment: Tensor
    gap: Tensor


@dataclass(frozen=True)
class Stationarity:
    """Stationarity of every weight tensor on spheres that has a gradient; ``print`` shows each one's worst neuron."""

    layers: tuple[LayerStationarity, ...]

    def __str__(self) -> str:
        """A table, one line a layer."""
        header = ("layer", "lambda (mean)", "residual", "relative residual", "|alignment| (min)", "gap")
        rows = [
            (
                layer.layer,
                f"{layer.multiplier.mean():.3e}",
                f"{layer.residual.max():.3e}",
                f"{layer.relative_residual.max():.3e}",
                f"{layer.alignment.abs().min():.6f}",
                f"{layer.gap.max():.3e}",
            )
            for layer in self.layers
        ]
        return table(header, rows)


def summary(
    model: nn.Module,
    optimizer: Optimizer | None = None,
    *,
    rules: Sequence[Rule] | None = None,
    include_last: bool = False,
) -> Summary:
    """What the selected weights look like now.

    Args:
        model: Any module, with masks or without.
        optimizer: Its optimizer, for p and the radius; None: neither is shown.
        rules: Those given to `param_groups` and the topology method, for the same selection.
        include_last: Show the output layer too; one that is on a sphere or has a mask is always shown.

    Returns:
        Rows per layer; ``print`` shows a table.

    Raises:
        ValueError: If the model has no weight to select.
    """
    spheres = _spheres(optimizer)
    layers = []
    shown = {neuron.name for neuron in select(model, rules, include_last)}
    for neuron in select(model, rules, include_last=True):
        p, radius = spheres.get(id(neuron.weight), (None, None))
        masked = _mask(neuron) is not None
        if neuron.name in shown or masked or p is not None:
            layers.append(_summarise(neuron, p, radius, sparse=masked or (neuron.name in shown and neuron.sparse)))
    return Summary(tuple(layers), sum(param.numel() for param in model.parameters()))


@torch.no_grad()
def stationarity(model: nn.Module, optimizer: Optimizer, *, rules: Sequence[Rule] | None = None) -> Stationarity:
    """How stationary the constrained weights are for the gradients they hold; call it before ``zero_grad``.

    Args:
        model: The model, after a backward pass.
        optimizer: Its `LpSGD`.
        rules: Those given to `param_groups`, for the same selection.

    Returns:
        Figures per neuron; ``print`` shows each layer's worst.

    Raises:
        ValueError: If no weight on a sphere has a gradient.
    """
    spheres = _spheres(optimizer)
    layers = []
    for neuron in select(model, rules, include_last=True):
        p, radius = spheres.get(id(neuron.weight), (None, None))
        if p is None or neuron.weight.grad is None:
            continue
        mask = _mask(neuron)
        gradient = neuron.layout.to_rows(neuron.weight.grad.double())
        if mask is not None:
            gradient = gradient * neuron.layout.to_rows(mask)
        weights = neuron.layout.to_rows(neuron.weight.double())
        layers.append(_stationarity(neuron.name, weights, gradient, p, _radius_rows(radius, weights)))
    if not layers:
        raise ValueError("no weight on a sphere has a gradient: call this after backward() and before zero_grad()")
    return Stationarity(tuple(layers))


def _stationarity(name: str, weights: Tensor, gradient: Tensor, p: float, radius: Tensor) -> LayerStationarity:
    unit = weights / torch.where(radius == 0, torch.ones_like(radius), radius)
    inner = (gradient * unit).sum(-1)
    norm = lp_norm(gradient, conjugate(p))
    residual = lp_norm(gradient - inner.unsqueeze(-1) * dual(unit, p), conjugate(p))
    divisor = torch.where(norm == 0, torch.ones_like(norm), norm)
    r = radius.squeeze(-1)
    return LayerStationarity(name, -inner, residual, residual / divisor, -inner / divisor, r * norm + r * inner)


def _spheres(optimizer: Optimizer | None) -> dict[int, tuple[float, Any]]:
    """P and radius of each parameter on spheres, by identity."""
    found: dict[int, tuple[float, Any]] = {}
    optimizer = getattr(optimizer, "spheres", optimizer)  # of one that leaves the rest to another optimizer
    for group in [] if optimizer is None else optimizer.param_groups:
        for param in group["params"]:
            if group.get("p") is not None and optimizer is not None:
                radius = group["radius"]
                found[id(param)] = (group["p"], optimizer.state[param]["radius"] if radius == "init" else radius)
    return found


def _radius_rows(radius: Any, rows: Tensor) -> Tensor:
    return torch.as_tensor(radius, dtype=rows.dtype, device=rows.device).reshape(-1, 1).expand(len(rows), 1)


def _mask(neuron: NeuronWeight) -> Tensor | None:
    return neuron.module._buffers.get(f"{neuron.attribute}_mask")


@torch.no_grad()
def _summarise(neuron: NeuronWeight, p: float | None, radius: Any, *, sparse: bool) -> LayerSummary:
    mask = _mask(neuron)
    weights = neuron.layout.to_rows(neuron.weight.double())
    active = neuron.layout.to_rows(neuron.layout.existing(neuron.weight) if mask is None else mask)
    counts = active.sum(-1)
    alive = (weights != 0).any(-1)
    measured, measured_counts = connection_hoyer(weights, active)
    predicted = error = None
    if p is not None:
        sizes, frequency = torch.unique(measured_counts, return_counts=True)
        if len(sizes):
            expected = expected_hoyer(p, sizes.double().cpu().numpy())
            predicted = float((expected * frequency.cpu().numpy()).sum() / int(frequency.sum()))
        distance = (lp_norm(weights, p) - _radius_rows(radius, weights).squeeze(-1)).abs()[alive]
        error = float(distance.max()) if len(distance) else None
    return LayerSummary(
        layer=neuron.name,
        neurons=neuron.neurons,
        fan_in=neuron.fan_in,
        p=p,
        density=float(counts.sum()) / neuron.size,
        connections=int(counts.sum()),
        hoyer=_mean(measured),
        hoyer_predicted=predicted,
        hoyer_full=_mean(hoyer(weights, torch.full_like(counts, neuron.fan_in))[alive]),
        sphere_error=error,
        dead=int((~alive).sum()),
        single=int((counts == 1).sum()),
        sparse=sparse,
    )


def connection_hoyer(rows: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """Hoyer's sparsity over the connections of each neuron alive with two or more, and their numbers.

    Args:
        rows: Weights, shape (neurons, fan_in); 0 where there is no connection.
        active: bool, the same shape: which connections exist.

    Returns:
        Two tensors of one dimension, an entry for each of these neurons.
    """
    counts = active.sum(-1)
    measurable = (rows != 0).any(-1) & (counts >= 2)
    return hoyer(rows, counts)[measurable], counts[measurable]


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None
