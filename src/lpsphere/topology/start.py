"""What a method starts from: the units of each layer at a sparsity, and the first connections. Changes nothing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lpsphere.distributed import Shards, row_range
from lpsphere.neurons import LpSphereWarning, NeuronWeight
from lpsphere.topology.checks import check_sparsity
from lpsphere.topology.distributions import layer_units
from lpsphere.topology.granularity import Granularity
from lpsphere.topology.growth import random_places
from lpsphere.topology.masks import existing_mask, get_mask, random_units
from lpsphere.topology.places import has_places

__all__ = ["first_connections", "units_at"]


def units_at(
    layers: Sequence[NeuronWeight],
    granularity: Granularity,
    sparsity: float,
    min_fan_in: int,
    distribution: str,
    most: Sequence[int] | None = None,
) -> list[int]:
    """The units of each layer at a sparsity of the network: those its rule asks for, the rest by the distribution.

    Args:
        layers: The layers.
        granularity: What a unit is.
        sparsity: Of all layers together, in [0, 1).
        min_fan_in: Connections every neuron keeps.
        distribution: "uniform" or "erk".
        most: The most units of each layer; None: all of them.

    Returns:
        One number a layer; their sum is round(N (1 - sparsity)) of the N units, or the fewest feasible.

    Raises:
        ValueError: If what the rules ask for leaves too few or too many to the other layers.
    """
    sizes = [granularity.units(neuron) for neuron in layers]
    fewest = [granularity.fewest(neuron, min_fan_in) for neuron in layers]
    total = max(round(sum(sizes) * (1 - sparsity)), sum(fewest))
    lower, upper = list(fewest), list(sizes if most is None else most)
    lower = [min(low, up) for low, up in zip(lower, upper, strict=True)]
    for i, neuron in enumerate(layers):
        if neuron.rule is not None and neuron.rule.sparsity is not None:
            wanted = round(sizes[i] * (1 - neuron.rule.sparsity))
            if not lower[i] <= wanted <= upper[i]:
                raise ValueError(
                    f"{neuron.rule} asks for {wanted:,} of {sizes[i]:,} units of {neuron.name}, which can have "
                    f"{lower[i]:,} to {upper[i]:,}: give it a sparsity from {1 - upper[i] / sizes[i]:.10g} to "
                    f"{1 - lower[i] / sizes[i]:.10g}, or change min_fan_in, granularity or initial_sparsity"
                )
            lower[i] = upper[i] = wanted
    if not sum(lower) <= total <= sum(upper):
        raise ValueError(
            f"the sparsities of the rules leave {sum(lower):,} to {sum(upper):,} of {sum(sizes):,} units, but sparsity "
            f"{sparsity:g} of the network asks for {total:,}: pass one from {1 - sum(upper) / sum(sizes):.10g} to "
            f"{1 - sum(lower) / sum(sizes):.10g}, or change the rules"
        )
    return layer_units([neuron.shape for neuron in layers], total, lower, upper, distribution)


def first_connections(
    layers: Sequence[NeuronWeight],
    granularity: Granularity,
    initial: float | Literal["keep"] | None,
    target: float,
    *,
    min_fan_in: int,
    distribution: str,
    constant: bool,
    generator: torch.Generator,
    shards: Shards | None = None,
) -> tuple[list[Tensor | None], list[int], list[int]]:
    """The connections a method starts from.

    Args:
        layers: The layers.
        granularity: What a unit is.
        initial: Sparsity of random masks, capped at the target; None: the target; "keep": continue from what exists.
        target: Sparsity of the end.
        min_fan_in: Connections every neuron keeps.
        distribution: "uniform" or "erk".
        constant: Whether the method keeps the number of connections, so that a pattern must hold from the start.
        generator: Where the randomness comes from.
        shards: The processes that share the rows of the layers; None: each has all of them.

    Returns:
        Masks in the shapes of the weights here, or the places of a layer that holds only its connections, int64, or
        None if it keeps those; their units in each layer, and the units of each layer at the target.

    Raises:
        TypeError, ValueError: If ``initial`` is out of range, or what exists does not fit.
    """
    if initial == "keep":
        found = [None if has_places(neuron) else existing_mask(neuron) for neuron in layers]
        kept = [
            neuron.weight.numel() if mask is None else _units_kept(neuron, granularity, mask, constant)
            for neuron, mask in zip(layers, found, strict=True)
        ]
        starts = _all_kept(layers, granularity, kept, shards)
        every, fewest = sum(map(granularity.units, layers)), sum(granularity.fewest(n, min_fan_in) for n in layers)
        if sum(starts) < max(round(every * (1 - target)), fewest):
            raise ValueError(
                f'initial_sparsity="keep" starts at {1 - sum(starts) / every:.4f}, above the target {target:g}: raise '
                f"sparsity to {1 - sum(starts) / every:.10g}, or leave initial_sparsity out"
            )
        return found, starts, units_at(layers, granularity, target, min_fan_in, distribution, most=starts)
    if any(get_mask(neuron) is not None for neuron in layers):
        raise ValueError(
            "the model has masks already: finalize() the method that made them, or detach() it and continue from them "
            'with initial_sparsity="keep"'
        )
    if isinstance(initial, str):
        raise TypeError(f'initial_sparsity must be a number in [0, 1) or "keep", got {initial!r}')
    start = target if initial is None else min(check_sparsity("initial_sparsity", initial), target)
    if constant and granularity.pattern is not None and start != target:
        raise ValueError(f"{granularity} holds from the start: leave initial_sparsity={initial!r} out")
    goals = units_at(layers, granularity, target, min_fan_in, distribution)
    starts = goals
    if start != target:  # a layer whose sparsity a rule fixes starts like the others
        shapes, sizes = [neuron.shape for neuron in layers], [granularity.units(neuron) for neuron in layers]
        total = max(round(sum(sizes) * (1 - start)), sum(goals))
        starts = layer_units(shapes, total, goals, sizes, distribution)
    _warn_of_growth(layers, starts)
    drawn: list[Tensor | None] = [
        _random(neuron, granularity, count, granularity.fewest_in_group(neuron, min_fan_in), generator)
        for neuron, count in zip(layers, starts, strict=True)
    ]
    return drawn, starts, goals


def _warn_of_growth(layers: Sequence[NeuronWeight], starts: Sequence[int]) -> None:
    for neuron, count in zip(layers, starts, strict=True):
        held = neuron.weight.numel()
        if has_places(neuron) and count > held:
            warnings.warn(
                f"{neuron.name} holds {held:,} connections and is given {count:,} to start from: pass "
                'initial_sparsity="keep" to start from those that it has',
                LpSphereWarning,
                stacklevel=4,
            )


def _random(
    neuron: NeuronWeight, granularity: Granularity, count: int, fewest: int, generator: torch.Generator
) -> Tensor:
    """Random connections: a mask, or places."""
    if has_places(neuron):
        return random_places(neuron, count, fewest, generator)
    units = random_units(granularity.shape(neuron), count, fewest, generator)
    first, last = (row * len(units) // len(neuron.parameter) for row in row_range(neuron.parameter))
    return granularity.spread(neuron, units[first:last])


def _units_kept(neuron: NeuronWeight, granularity: Granularity, mask: Tensor, constant: bool) -> int | None:
    """The number of units of an existing mask; None if it is not one of the granularity."""
    units = granularity.grid(neuron, mask)
    fits = torch.equal(granularity.spread(neuron, units), mask)
    if granularity.pattern is not None:
        counts = units.sum(1)
        fits = bool((counts == granularity.pattern[0]).all() if constant else (counts >= granularity.pattern[0]).all())
    return int(units.sum()) if fits else None


def _all_kept(
    layers: Sequence[NeuronWeight], granularity: Granularity, kept: Sequence[int | None], shards: Shards | None
) -> list[int]:
    """The units that each layer keeps in all processes.

    Raises:
        ValueError: If those of a layer are not of the granularity, in every process.
    """
    counts, misfits = [count or 0 for count in kept], [int(count is None) for count in kept]
    if shards is not None:
        sums = shards.total([*counts, *misfits])
        counts, misfits = sums[: len(counts)], sums[len(counts) :]
    for neuron, misfit in zip(layers, misfits, strict=True):
        if misfit:
            raise ValueError(
                f'the connections of {neuron.name} are not {granularity}: leave initial_sparsity="keep" out, or use '
                "the granularity that made them"
            )
    return counts
