"""From a model of dense layers to one whose linear layers hold only their connections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lpsphere.neurons import NeuronWeight, Rule, select
from lpsphere.sparse.linear import SparseLinear

__all__ = ["sparsify"]


def sparsify(
    model: nn.Module,
    sparsity: float | None = None,
    *,
    rules: Sequence[Rule] | None = None,
    include_last: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Put a `SparseLinear` in the place of every selected ``nn.Linear``, in place.

    Do it before the optimizer is made, which holds the parameters of the layers that are there. Other layers stay as
    they are: convolutions, and linear layers of other types, such as those within ``nn.MultiheadAttention``.

    Args:
        model: The model; `lpsphere.neurons.select` decides which layers are meant.
        sparsity: Sparsity of each new layer, in [0, 1), or of its rule; they start afresh, with random connections.
            None: they take over the connections that exist, those that a mask allows or whose weights are not 0.
        rules: As for `lpsphere.param_groups`; a rule with ``sparse=False`` leaves a layer dense.
        include_last: Replace the output layer too.
        seed: Where the connections and the first values come from.

    Returns:
        The model; where that is an ``nn.Linear`` itself, the layer in its place.

    Raises:
        TypeError, ValueError: If there is no such layer, a rule matches nothing, or the sparsity is out of range.

    Example:
        >>> model = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
        >>> print(sparsify(model, 0.95)[0])
        SparseLinear(in_features=784, out_features=300, connections=11760, sparsity=0.95, bias=True)
    """
    meant = [n for n in select(model, rules, include_last) if n.sparse and type(n.module) is nn.Linear]
    if not meant:
        raise ValueError(
            f"{type(model).__name__} has no nn.Linear to make sparse: the output layer is left out unless "
            "include_last=True, and so are layers with a rule sparse=False"
        )
    seeds = torch.randint(2**31, (len(meant),), generator=torch.Generator().manual_seed(seed)).tolist()
    new = {n.module: _sparse(n, sparsity, own) for n, own in zip(meant, seeds, strict=True)}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in new:
                setattr(parent, name, new[child])
    return new.get(model, model)


def _sparse(neuron: NeuronWeight, sparsity: float | None, seed: int) -> SparseLinear:
    linear = neuron.module
    assert isinstance(linear, nn.Linear)
    if sparsity is None:
        return SparseLinear.from_dense(linear)
    own = None if neuron.rule is None else neuron.rule.sparsity
    return SparseLinear(
        linear.in_features,
        linear.out_features,
        sparsity=sparsity if own is None else own,
        bias=linear.bias is not None,
        seed=seed,
        dtype=linear.weight.dtype,
        device=linear.weight.device,
    ).train(linear.training)
