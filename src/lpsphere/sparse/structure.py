"""Which connections a layer has, as tensors: given, read from a mask, or drawn at random. Never of dense size."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["check_saved_structure", "count_connections", "draw_connections", "order_connections", "pointers_of"]

LARGEST = 2**31 - 1
_DRAWN = 2**15
"""Connections that are drawn at a time, or those of one neuron."""


def count_connections(in_features: int, out_features: int, sparsity: object) -> int:
    """The number of connections that leaves a layer at a sparsity.

    Raises:
        TypeError: If the sparsity is not a number.
        ValueError: If it is not in [0, 1), leaves fewer connections than neurons, or more than can be indexed.
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float):
        raise TypeError(f"sparsity must be a number in [0, 1), got {sparsity!r}")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}: 0.9 keeps a tenth of the connections")
    connections = round((1 - sparsity) * in_features * out_features)
    if connections < out_features:
        raise ValueError(
            f"sparsity {sparsity} leaves {connections} connections to {out_features} neurons, and each needs one: "
            f"choose {1 - 1 / in_features:.6g} or less"
        )
    if connections > LARGEST:
        raise ValueError(
            f"sparsity {sparsity} leaves {connections} connections, and a layer can have {LARGEST}: choose "
            f"{1 - LARGEST / in_features / out_features:.6g} or more"
        )
    return connections


def draw_connections(
    in_features: int, out_features: int, connections: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random connections: each neuron has as many as the others, within one, from features drawn without repetition.

    Args:
        in_features: Number of input features.
        out_features: Number of neurons.
        connections: Number of connections, at most in_features times out_features.
        generator: Where the randomness comes from, on the CPU.

    Returns:
        Row pointers, shape (out_features + 1,), and columns, shape (connections,), ascending within a neuron; int32,
        on the CPU.
    """
    fan_ins = torch.full((out_features,), connections // out_features)
    fan_ins[torch.randperm(out_features, generator=generator)[: connections % out_features]] += 1
    pointers = torch.zeros(out_features + 1, dtype=torch.int32)
    pointers[1:] = fan_ins.cumsum(0)
    if 2 * connections <= in_features * out_features:
        return pointers, torch.cat(_draw(fan_ins, in_features, generator))
    mask = torch.ones((out_features, in_features), dtype=torch.bool)  # no larger than what is asked for
    absent = in_features - fan_ins  # those that are missing are the fewer
    mask[torch.arange(out_features).repeat_interleave(absent), torch.cat(_draw(absent, in_features, generator))] = False
    return pointers, mask.nonzero()[:, 1].int()


def _draw(fan_ins: Tensor, in_features: int, generator: torch.Generator) -> list[Tensor]:
    """Columns, ascending in each row, with ``fan_ins`` in each; quick while rows are half empty.

    What a row lacks is drawn until it has enough, and no feature is preferred: every set of its size is as likely. A
    block of rows at a time, so that little is needed beside the result: int32, a tensor for each block.
    """
    rows = max(1, _DRAWN // max(1, int(fan_ins.max())))
    blocks = torch.split(fan_ins, rows)
    found = [torch.empty(0, dtype=torch.int32) for _ in blocks]
    missing = list(blocks)
    while any(bool(lacking.any()) for lacking in missing):
        for i, (wanted, lacking) in enumerate(zip(blocks, missing, strict=True)):
            first = torch.arange(len(wanted)) * in_features
            old = first.repeat_interleave(wanted - lacking) + found[i]
            drawn = first.repeat_interleave(lacking)
            drawn += torch.randint(in_features, drawn.shape, generator=generator)
            places = torch.unique(torch.cat([old, drawn]))
            missing[i] = wanted - (places // in_features).bincount(minlength=len(wanted))
            found[i] = (places % in_features).int()
    return found


def pointers_of(rows: Tensor, out_features: int) -> Tensor:
    """Where the connections of each neuron begin, int32, shape (out_features + 1,), from ascending rows."""
    return torch.searchsorted(rows, torch.arange(out_features + 1, device=rows.device), out_int32=True)


def order_connections(
    rows: Tensor, columns: Tensor, in_features: int, out_features: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Connections in ascending order, neuron by neuron; and their order in what was given.

    Args:
        rows: Neurons, integers of shape (connections,), in any order.
        columns: Input features, likewise.
        in_features: Number of input features.
        out_features: Number of neurons.

    Returns:
        rows, columns and order, integers, each of shape (connections,); the order is None where what was given
        ascends already.

    Raises:
        TypeError: If rows or columns are not integer tensors.
        ValueError: If they are not of one length, out of range, or name a connection twice.
    """
    _check_indices("rows", rows, out_features)
    _check_indices("columns", columns, in_features)
    if rows.shape != columns.shape:
        raise ValueError(
            f"rows and columns must name one connection an entry, got {rows.numel()} rows and {columns.numel()} columns"
        )
    if rows.numel() > LARGEST:
        raise ValueError(f"a layer can have {LARGEST} connections, got {rows.numel()}")
    columns = columns.to(rows.device)
    before, after = rows[:-1], rows[1:]
    if bool(((before < after) | ((before == after) & (columns[:-1] < columns[1:]))).all()):
        return rows, columns, None
    places, order = rows.long().mul(in_features).add_(columns).sort()
    repeated = places[1:] == places[:-1]
    if bool(repeated.any()):
        row, column = divmod(int(places[1:][repeated][0]), in_features)
        raise ValueError(f"the connection from feature {column} to neuron {row} is given twice: give each once")
    return places // in_features, places % in_features, order


def _check_indices(name: str, indices: object, size: int) -> None:
    """Refuse what is no tensor of integers from 0 to size - 1.

    Raises:
        TypeError, ValueError: If it is not.
    """
    if not isinstance(indices, Tensor) or indices.is_floating_point() or indices.is_complex():
        given = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
        raise TypeError(f"{name} must be an integer tensor, got {given}")
    if indices.dtype == torch.bool:
        raise TypeError(f"{name} must be an integer tensor, got torch.bool: a mask gives them by mask.nonzero().T")
    if indices.ndim != 1:
        raise ValueError(f"{name} must have one dimension, (connections,), got shape {tuple(indices.shape)}")
    if indices.numel() and (int(indices.min()) < 0 or int(indices.max()) >= size):
        raise ValueError(
            f"{name} must be from 0 to {size - 1}, got {int(indices.min())} to {int(indices.max())}: check the layer's "
            "in_features and out_features"
        )


def check_saved_structure(state: Mapping[str, Tensor], in_features: int, out_features: int) -> str | None:
    """What is wrong with a saved layer, and what to do about it; None if nothing is.

    Args:
        state: Those of "weight", "row_pointers" and "columns" that were saved.
        in_features: Number of input features of the layer that takes them over.
        out_features: Its number of neurons.
    """
    names = ("weight", "row_pointers", "columns")
    if set(state) == {"weight"} and state["weight"].ndim == 2:
        return (
            f"the state has a dense weight of shape {tuple(state['weight'].shape)}. Load it into an nn.Linear and "
            "make the layer from that: SparseLinear.from_dense(linear)"
        )
    absent = [name for name in names if name not in state]
    if absent:
        return f"the state has no {' and no '.join(absent)}: weights mean nothing without their structure"
    weight, pointers, columns = (state[name] for name in names)
    if pointers.shape != (out_features + 1,):
        return f"the state has {pointers.numel() - 1} neurons, the layer {out_features}"
    if weight.ndim != 1 or columns.shape != weight.shape or int(pointers[-1]) != weight.numel():
        return (
            f"the shapes of the state do not fit each other: weight {tuple(weight.shape)}, columns "
            f"{tuple(columns.shape)}, and {int(pointers[-1])} connections by row_pointers"
        )
    if columns.numel() and (int(columns.min()) < 0 or int(columns.max()) >= in_features):
        return (
            f"the state has connections from feature {int(columns.max())}, and the layer has {in_features} input "
            "features"
        )
    return None
