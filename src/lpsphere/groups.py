"""From the selected weights and the rules to parameter groups for `LpSGD`. Reads modules; changes nothing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from lpsphere.geometry import check_exponent
from lpsphere.neurons import (
    LpSphereWarning,
    NeuronLayout,
    NeuronWeight,
    Radius,
    Rule,
    SegmentLayout,
    check_radius,
    select,
    without_norm,
)
from lpsphere.text import table
from lpsphere.theory import expected_hoyer, hoyer_std, p_for_training, weak_fraction

__all__ = ["ParamGroups", "param_groups"]


class ParamGroups(list[dict[str, Any]]):
    """Parameter groups for an optimizer; ``print`` shows them as a table.

    Attributes:
        reasons: A line for each layer whose p was chosen by "auto", which ``print`` shows too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[str] = []

    def __str__(self) -> str:
        """One line a group: name, p, radius, lr, tensors, weights; then the reasons."""
        header = ("group", "p", "radius", "lr", "weight decay", "tensors", "weights")
        rows = [
            (
                group["name"],
                "-" if group["p"] is None else f"{group['p']:g}",
                "-" if group["p"] is None else str(group["radius"]),
                f"{group['lr']:g}",
                f"{group['weight_decay']:g}",
                str(len(group["params"])),
                f"{sum(p.numel() for p in group['params']):,}",
            )
            for group in self
        ]
        return "\n".join([table(header, rows), *self.reasons])


def param_groups(
    model: nn.Module,
    p: float | Literal["auto"] | None,
    *,
    sparsity: float | None = None,
    lr: float,
    other_lr: float,
    rules: Sequence[Rule] | None = None,
    weight_decay: float = 0.0,
    radius: Radius = 1.0,
    include_last: bool = False,
) -> ParamGroups:
    """Parameter groups for `LpSGD`: the selected weights on their spheres, all the rest left to plain SGD.

    Args:
        model: Any module; what is a neuron is decided by `select`.
        p: Exponent of the spheres, greater than 1; None: only the rules put weights on spheres; "auto": what suits the
            sparsity (`lpsphere.theory.p_for_training`), of a layer's rule where that names one.
        sparsity: Target sparsity of the topology method, in [0, 1), for "auto".
        lr: Learning rate eta of the weights on spheres, in [0, 1].
        other_lr: Learning rate of the rest: biases, norms, the output layer.
        rules: Exceptions, the first match wins.
        weight_decay: Weight decay of the rest.
        radius: Radius of the spheres, or "init": each neuron keeps the norm it has (where nothing normalises).
        include_last: Put the output layer on spheres too.

    Returns:
        The groups; ``print`` shows them as a table.

    Raises:
        TypeError, ValueError: If p, the sparsity, the radius or a rule is wrong, or nothing is selected.

    Warns:
        LpSphereWarning: If weights on unit spheres are followed by no normalisation: activations then shrink from
            layer to layer (method, section 2).
    """
    default_p = None if p is None or p == "auto" else check_exponent(p)
    _check_sparsity(p, sparsity)
    default_radius = check_radius(radius)
    groups = ParamGroups()
    selected = select(model, rules, include_last)
    constrained: dict[tuple[float, Radius, NeuronLayout | None], list[NeuronWeight]] = {}  # None: sparse layers
    for neuron in selected:
        rule = neuron.rule or Rule("*")
        rule_p = default_p if rule.p == "default" else rule.p
        if rule.p == "default" and p == "auto":
            target = _sparsity_of(rule, float(sparsity or 0))
            rule_p = p_for_training(target)
            groups.reasons.append(_reason(neuron, rule_p, target))
        if rule_p is not None:
            layout = neuron.layout if isinstance(neuron.layout, NeuronLayout) else None
            key = (float(rule_p), default_radius if rule.radius is None else rule.radius, layout)
            constrained.setdefault(key, []).append(neuron)
    unit = [n for (_, r, _), members in constrained.items() if r == 1.0 for n in members]
    bare = without_norm(model, unit)
    if bare:
        warnings.warn(
            f"no normalisation follows {', '.join(bare[:5])}{', ...' if len(bare) > 5 else ''}: with unit radius the "
            'activations shrink from layer to layer. Pass radius="init", or add a BatchNorm or LayerNorm',
            LpSphereWarning,
            stacklevel=2,
        )
    for (group_p, group_radius, layout), members in constrained.items():
        groups.append(_sphere_group(members, layout, lr=lr, p=group_p, radius=group_radius))
    taken = {id(n.parameter) for members in constrained.values() for n in members}
    rest = [q for q in model.parameters() if id(q) not in taken]
    if rest:
        groups.append({"name": "rest", "params": rest, "lr": other_lr, "p": None, "weight_decay": weight_decay})
    return groups


def _sphere_group(
    members: Sequence[NeuronWeight], layout: NeuronLayout | None, *, lr: float, p: float, radius: Radius
) -> dict[str, Any]:
    """The group of weights with one layout, or of sparse layers, each with its own."""
    kind = " sparse" if layout is None else "" if layout.neuron_dim == 0 else " transposed"
    group: dict[str, Any] = {"name": f"sphere p={p:g}{kind}", "params": [n.parameter for n in members]}
    if layout is None:
        group["layouts"] = [n.layout for n in members if isinstance(n.layout, SegmentLayout)]
        layout = NeuronLayout()
    return group | {
        "lr": lr,
        "p": p,
        "radius": radius,
        "neuron_dim": layout.neuron_dim,
        "neuron_groups": layout.groups,
        "weight_decay": 0.0,
    }


def _check_sparsity(p: object, sparsity: float | None) -> None:
    if p == "auto" and sparsity is None:
        raise ValueError('p="auto" needs the sparsity that p shall suit, such as sparsity=0.9')
    if p != "auto" and sparsity is not None:
        raise ValueError(f'sparsity={sparsity} is for p="auto" only, got p={p}: the topology method takes the target')
    if sparsity is not None:
        p_for_training(sparsity)  # it says what is wrong with a number that is none


def _sparsity_of(rule: Rule, sparsity: float) -> float:
    if not rule.sparse:
        return 0.0
    return sparsity if rule.sparsity is None else float(rule.sparsity)


def _reason(neuron: NeuronWeight, p: float, sparsity: float) -> str:
    """Why a layer has this p, on a line."""
    hoyer, spread = expected_hoyer(p, neuron.fan_in), hoyer_std(p, neuron.fan_in)
    return (
        f"{neuron.name}: p = {p:g} for sparsity {sparsity:g} ({weak_fraction(p, 0.2):.0%} of {neuron.fan_in:,} weights "
        f"expected under 0.2 of their mean, Hoyer {hoyer:.2f} ± {spread:.2f})"
    )
