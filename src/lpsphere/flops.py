"""Floating-point operations of a network and of its training, dense and in proportion to the connections that exist.

Runs a model once to see how often each weight is used; changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lpsphere.neurons import SegmentLayout

__all__ = ["LayerCost", "inference_flops", "layer_costs", "training_flops"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FLOPS_PER_WEIGHT = 2  # a multiplication and an addition
_PASSES = 3  # forward, gradient of the input, gradient of the weight


@dataclass(frozen=True)
class LayerCost:
    """One weight tensor.

    Attributes:
        weights: Its entries; of a layer that holds only its connections, those of the dense layer.
        uses: How often each of them is used for one sample: the positions of a convolution, 1 for a Linear of vectors.
        held: The connections of a layer that holds nothing else; None: the layer is dense.
    """

    weights: int
    uses: float
    held: int | None = None

    @property
    def flops(self) -> float:
        """FLOPs of one sample's forward pass, dense."""
        return _FLOPS_PER_WEIGHT * self.weights * self.uses


@torch.no_grad()
def layer_costs(model: nn.Module, example: Tensor) -> dict[str, LayerCost]:
    """How often each Linear, SparseLinear, Conv, ConvTranspose and MultiheadAttention weight is used for one sample.

    Normalisation, biases, activations and the attention products themselves are not counted: no method changes them.

    Args:
        model: The model; it is run in evaluation mode; its own is restored.
        example: A batch that it takes, shape (n, ...).

    Returns:
        Costs by parameter name; weights that the example does not reach are left out.
    """
    names = {id(param): name for name, param in model.named_parameters()}
    costs: dict[str, LayerCost] = {}

    def count(weight: Tensor | None, positions: float, size: int | None = None) -> None:
        name = names.get(id(weight))
        if weight is not None and name is not None:
            uses = positions / len(example) + (costs[name].uses if name in costs else 0.0)
            held = None if size is None else weight.numel()
            costs[name] = LayerCost(weight.numel() if size is None else size, uses, held)

    def hook(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        if isinstance(module, nn.MultiheadAttention):
            given = dict(zip(("query", "key", "value"), inputs, strict=False)) | keywords
            queries, keys = (given[name].numel() / given[name].shape[-1] for name in ("query", "key"))
            count(module.in_proj_weight, (queries + 2 * keys) / 3)
            count(module.q_proj_weight, queries)
            for weight in (module.k_proj_weight, module.v_proj_weight):
                count(weight, keys)
            count(module.out_proj.weight, queries)
        elif isinstance(module, nn.Linear):
            count(module.weight, output.numel() / output.shape[-1])
        elif isinstance(layout := _layout_of(module), SegmentLayout):
            size = layout.layer.in_features * layout.layer.out_features
            count(module.get_parameter("weight"), output.numel() / output.shape[-1], size)
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            count(module.weight, output.numel() / module.out_channels)
        elif isinstance(module, _TRANSPOSED):
            count(module.weight, inputs[0].numel() / module.in_channels)

    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in model.modules()]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        model(example)
    finally:
        for module, training in modes.items():
            module.training = training
        for handle in handles:
            handle.remove()
    return costs


def _layout_of(module: nn.Module) -> object:
    """Where the neurons of a layer lie that says so itself."""
    rows_of = getattr(module, "neuron_rows", None)
    return rows_of("weight") if callable(rows_of) else None


def inference_flops(costs: Mapping[str, LayerCost], connections: Mapping[str, int]) -> float:
    """FLOPs of one sample's forward pass.

    Args:
        costs: What `layer_costs` returned.
        connections: Connections by parameter name; a weight that is not in it has those it holds, or is dense.
    """
    return sum(
        cost.flops * connections.get(name, cost.weights if cost.held is None else cost.held) / cost.weights
        for name, cost in costs.items()
    )


def training_flops(
    costs: Mapping[str, LayerCost],
    *,
    steps: int,
    batch_size: int,
    connections: Sequence[tuple[int, Mapping[str, int]]] = (),
    dense_gradients: Collection[int] = (),
) -> float:
    """FLOPs of a whole training: three times the forward pass a sample, in proportion to the connections.

    A step that needs the gradient of all weights, such as that of an update which grows by gradient, pays the
    weight gradient in full.

    Args:
        costs: What `layer_costs` returned.
        steps: Optimizer steps.
        batch_size: Samples of each.
        connections: After which step (0: from the start) which weights had how many connections, in order.
        dense_gradients: The steps that need dense gradients.

    Returns:
        FLOPs.

    Source: the accounting of Evci et al., 2020 (arXiv:1911.11134), appendix H.
    """
    dense = sum(cost.flops for cost in costs.values())
    total, spans = 0.0, [*connections, (steps, {})]
    if not connections or spans[0][0] > 0:
        spans.insert(0, (0, {}))
    for (start, counts), (end, _) in pairwise(spans):
        end = min(end, steps)
        sparse = inference_flops(costs, counts)
        full = sum(1 for step in dense_gradients if start < step <= end)
        total += max(0, end - start) * _PASSES * sparse + full * (dense - sparse)
    return batch_size * total
