"""Pairs of networks, one with masks and one with layers that hold only their connections, and how to compare them."""

import copy
import itertools

import torch
from torch import nn

from lpsphere.sparse import SparseLinear


def perceptron(sizes=(12, 16, 14, 3), dtype=torch.float64, norm=False, seed=0):
    torch.manual_seed(seed)
    layers = []
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), *([nn.BatchNorm1d(outputs)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:])).to(dtype)


def with_sparse_layers(model, only=None):
    """A copy with every hidden linear layer, or only that one, holding all of its connections: none is missing yet."""
    sparse = copy.deepcopy(model)
    hidden = [name for name, module in sparse.named_children() if isinstance(module, nn.Linear)][:-1]
    for name in hidden if only is None else hidden[only : only + 1]:
        linear = sparse.get_submodule(name)
        sparse[int(name)] = SparseLinear.from_dense(linear, torch.ones_like(linear.weight, dtype=torch.bool))
    return sparse


def weight_of(model, name):
    """A weight in dense form."""
    module = model.get_submodule(name.rpartition(".")[0])
    return (module.to_dense() if isinstance(module, SparseLinear) else module).weight.detach()


def masks_of(topology):
    """The masks in dense form."""
    return {name: mask.to_dense() if mask.is_sparse else mask.clone() for name, mask in topology.masks.items()}


def spread_state(model, optimizer, name):
    """The state of a weight that has an entry for each connection, in dense form."""
    module, weight = model.get_submodule(name.rpartition(".")[0]), model.get_parameter(name)
    found = {}
    for key, value in optimizer.state.get(weight, {}).items():
        if isinstance(value, torch.Tensor) and value.shape == weight.shape:
            if isinstance(module, SparseLinear):
                value = value.new_zeros(module.out_features, module.in_features).index_put(
                    (module.rows.long(), module.columns.long()), value
                )
            found[key] = value
    return found
