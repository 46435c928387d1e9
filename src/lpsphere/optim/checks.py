"""What `lpsphere.LpSGD` refuses: parameter groups that are out of range. Reads groups; changes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lpsphere.distributed import is_shared, shards_of
from lpsphere.geometry import check_exponent
from lpsphere.neurons import NeuronLayout, SegmentLayout, check_radius

__all__ = ["check_eta", "check_group", "layout_of", "refuse_duplicates"]


def layout_of(group: dict[str, Any]) -> NeuronLayout:
    """Where the neurons of a group's weights lie, but for those that have a layout of their own."""
    return NeuronLayout(group["neuron_dim"], group["neuron_groups"])


def refuse_duplicates(group: dict[str, Any], groups: list[dict[str, Any]]) -> None:
    """Raise ValueError if a parameter of a new group is in it twice or in a group before it."""
    params = group.get("params") if isinstance(group, dict) else None
    if params is None or isinstance(params, set):
        return  # torch refuses these itself
    given = group["params"] = [params] if isinstance(params, Tensor) else list(params)
    identifiers = [id(entry[1] if isinstance(entry, tuple) else entry) for entry in given]
    earlier = {id(param) for g in groups for param in g["params"]}
    if len(set(identifiers)) < len(identifiers) or earlier & set(identifiers):
        raise ValueError(
            "a parameter is given twice: each must be in one group only. lpsphere.param_groups(model, ...) counts "
            "shared weights once"
        )


def check_eta(group: dict[str, Any]) -> None:
    """Raise ValueError if the learning rate of weights on spheres is outside [0, 1]."""
    eta = float(group["lr"])
    if not 0 <= eta <= 1:
        raise ValueError(
            f"the learning rate of weights on spheres must be in [0, 1], got {eta} (group "
            f"{group.get('name', 'p=' + str(group['p']))!r}): it is the share of the step direction in the new "
            "weight; 0.008 to 0.03 works well. Biases, norms and the output layer have other_lr"
        )


def check_group(group: dict[str, Any], layouts: Mapping[Tensor, SegmentLayout]) -> None:
    """Raise TypeError or ValueError if a group is out of range, or its tensors cannot hold neurons.

    Args:
        group: The group, with all of its keys.
        layouts: Those of the weights of sparse layers.
    """
    if not (math.isfinite(float(group["lr"])) and group["lr"] >= 0):
        raise ValueError(f"lr must be at least 0, got {group['lr']}")
    for name in ("momentum", "weight_decay"):
        if not group[name] >= 0:
            raise ValueError(f"{name} must be at least 0, got {group[name]}")
    if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
        raise ValueError(
            f"nesterov needs momentum above 0 and dampening 0, got momentum={group['momentum']}, "
            f"dampening={group['dampening']}"
        )
    if group["form"] not in ("dual", "primal"):
        raise ValueError(f'form must be "dual" or "primal", got {group["form"]!r}')
    if group["p"] is not None:
        _check_sphere_group(group, layouts)


def _check_sphere_group(group: dict[str, Any], layouts: Mapping[Tensor, SegmentLayout]) -> None:
    check_exponent(group["p"])
    check_radius(group["radius"])
    check_eta(group)
    if group["weight_decay"] != 0:
        raise ValueError(
            f"weight_decay must be 0 for weights on spheres, got {group['weight_decay']}: their norm is fixed. "
            "Give it to the rest: lpsphere.param_groups(model, ..., weight_decay=...)"
        )
    layout = layout_of(group)
    if layout.groups < 1:
        raise ValueError(f"neuron_groups must be at least 1, got {layout.groups}")
    shards_of([param for param in group["params"] if is_shared(param)])
    for param in group["params"]:
        if param.is_complex() or not param.is_floating_point():
            raise TypeError(f"weights on spheres must be real floating-point tensors, got {param.dtype}")
        if param in layouts:
            _check_segments(param, layouts[param])
            continue
        if is_shared(param) and layout != NeuronLayout():
            raise ValueError(
                f"neurons of a sharded weight must be its rows, not along dimension {layout.neuron_dim} in "
                f"{layout.groups} groups: leave transposed convolutions to SGD with Rule(types=..., p=None), or do not "
                "shard them"
            )
        if param.ndim >= 2 and (not 0 <= layout.neuron_dim < param.ndim or param.shape[0] % layout.groups):
            raise ValueError(
                f"neuron_dim={layout.neuron_dim}, neuron_groups={layout.groups} do not fit a tensor of shape "
                f"{tuple(param.shape)}"
            )
        if param.ndim < 2 or layout.fan_in(param) < 2:
            raise ValueError(
                f"a tensor of shape {tuple(param.shape)} has no neurons of two weights or more to put on spheres: let "
                "lpsphere.param_groups(model, p=...) choose the weights and leave biases and norms to SGD"
            )


def _check_segments(param: Tensor, layout: SegmentLayout) -> None:
    connections = int(layout.layer.row_pointers[-1])
    if param.shape != (connections,):
        raise ValueError(
            f"layouts names a layer of {connections} connections for a tensor of shape {tuple(param.shape)}: let "
            "lpsphere.param_groups(model, p=...) make the groups"
        )
