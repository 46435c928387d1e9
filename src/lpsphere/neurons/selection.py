"""Which weights of a network are neurons, where in their tensor the neurons lie, and which rule is theirs.

One selection serves the optimizer's parameter groups and every topology method. Reads modules; changes nothing.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from lpsphere.geometry import check_exponent
from lpsphere.neurons.layouts import Layout, NeuronLayout

__all__ = [
    "LpSphereWarning",
    "NeuronWeight",
    "Radius",
    "Rule",
    "check_radius",
    "select",
    "without_norm",
]

Radius = float | Literal["init"]


class LpSphereWarning(UserWarning):
    """Something will run, but probably not as its user expects."""


@dataclass(frozen=True)
class Rule:
    """What to do with the layers that a pattern or a list of types picks out; the first rule that matches wins.

    Attributes:
        pattern: Shell-style pattern on the layer's name or its parameter's ("stage1.*", "encoder.*.weight"); None: any.
        types: Module types; (): any. Only a rule that names ``nn.Embedding`` here reaches embeddings.
        p: Exponent of the sphere; None leaves the weights to plain SGD; "default": as given to `param_groups`.
        sparse: Whether topology methods may take connections away.
        radius: Radius of the spheres; None: as given to `param_groups`.
        sparsity: Sparsity of each of these layers, in [0, 1), whatever the network's; None: what the method's
            distribution gives them. For methods that rank connections within layers.
    """

    pattern: str | None = None
    types: tuple[type[nn.Module], ...] = ()
    p: float | Literal["default"] | None = "default"
    sparse: bool = True
    radius: Radius | None = None
    sparsity: float | None = None

    def __post_init__(self) -> None:
        if self.pattern is None and not self.types:
            raise ValueError('a Rule needs a name pattern such as "stage1.*", or types=(nn.Conv2d,), or both')
        if not isinstance(self.types, tuple) or not all(isinstance(t, type) for t in self.types):
            raise TypeError(
                f"types of the rule must be a tuple of module types such as (nn.Conv2d,), got {self.types!r}"
            )
        if self.p is not None and self.p != "default":
            check_exponent(self.p, name="p of the rule")
        if self.radius is not None:
            check_radius(self.radius)
        if self.sparsity is None:
            return
        if isinstance(self.sparsity, bool) or not isinstance(self.sparsity, int | float):
            raise TypeError(f"sparsity of the rule must be a number in [0, 1), got {self.sparsity!r}")
        if not (self.sparse and 0 <= self.sparsity < 1):
            raise ValueError(f"sparsity of the rule must be in [0, 1), and sparse not False; got {self.sparsity}")

    def matches(self, layer: str, parameter: str, module: nn.Module) -> bool:
        """Whether the rule speaks of this parameter (its full name) of this layer."""
        if isinstance(module, _EMBEDDINGS) and not any(issubclass(t, _EMBEDDINGS) for t in self.types):
            return False
        return (not self.types or isinstance(module, self.types)) and (
            self.pattern is None or any(fnmatch.fnmatchcase(name, self.pattern) for name in (layer, parameter))
        )

    @property
    def leaves_out(self) -> bool:
        """Whether it keeps its layers from both spheres and topology methods."""
        return self.p is None and not self.sparse


@dataclass(frozen=True)
class NeuronWeight:
    """One selected weight tensor and what the rules say of it.

    Attributes:
        name: Full parameter name, as in ``model.named_parameters()``.
        module: The module that owns it.
        attribute: Its name there ("weight", "in_proj_weight").
        layout: Where its neurons lie.
        rule: The rule that matched, or None.
    """

    name: str
    module: nn.Module = field(repr=False)
    attribute: str
    layout: Layout
    rule: Rule | None = None

    @property
    def weight(self) -> nn.Parameter:
        """The parameter as it is now (frameworks may replace it)."""
        weight = getattr(self.module, self.attribute)
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def sparse(self) -> bool:
        """Whether topology methods may take its connections away."""
        return self.rule is None or self.rule.sparse

    @property
    def neurons(self) -> int:
        """The number of neurons."""
        return self.layout.neurons(self.weight)

    @property
    def fan_in(self) -> int:
        """The number of weights of one neuron, whether they exist or not."""
        return self.layout.fan_in(self.weight)

    @property
    def size(self) -> int:
        """The number of weights, whether they exist or not."""
        return self.neurons * self.fan_in

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight; of one that holds only its connections, the dense one: (neurons, fan_in)."""
        return tuple(self.weight.shape) if isinstance(self.layout, NeuronLayout) else (self.neurons, self.fan_in)


_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_LINEAR_LIKE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []),
)
_TRANSFORMERS_CONV1D = ("transformers.pytorch_utils", "Conv1D")
"""The Linear of GPT-2, which keeps its weight transposed; named, since that library need not be there."""
_IN_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def check_radius(radius: object) -> Radius:
    """Return a sphere's radius, a positive number or "init".

    Raises:
        TypeError, ValueError: If it is anything else.
    """
    if radius == "init":
        return "init"
    if isinstance(radius, bool) or not isinstance(radius, int | float):
        raise TypeError(f'radius must be a positive number or "init", got {radius!r}')
    if not 0 < radius < float("inf"):
        raise ValueError(f'radius must be a positive number or "init", got {radius}')
    return float(radius)


def _weights_of(module: nn.Module) -> Iterator[tuple[str, Layout]]:
    """The attributes of a module that hold neurons, and their layouts."""
    neuron_rows: Callable[[str], Layout | None] | None = getattr(module, "neuron_rows", None)
    if neuron_rows is not None:
        for attribute, _ in module.named_parameters(recurse=False):
            layout = neuron_rows(attribute)
            if layout is not None:
                yield attribute, layout
    elif isinstance(module, _TRANSPOSED):
        yield "weight", NeuronLayout(neuron_dim=1, groups=module.groups)
    elif isinstance(module, _LINEAR_LIKE):
        yield "weight", NeuronLayout()
    elif isinstance(module, nn.MultiheadAttention):
        for attribute in _IN_PROJECTIONS:
            if getattr(module, attribute) is not None:
                yield attribute, NeuronLayout()
    elif isinstance(module, _EMBEDDINGS):
        yield "weight", NeuronLayout()
    elif (type(module).__module__, type(module).__name__) == _TRANSFORMERS_CONV1D:
        yield "weight", NeuronLayout(neuron_dim=1)


def _first_match(rules: Sequence[Rule], layer: str, parameter: str, module: nn.Module) -> Rule | None:
    return next((rule for rule in rules if rule.matches(layer, parameter, module)), None)


def _refuse_lazy(module: nn.Module, attribute: str, layer: str) -> None:
    if isinstance(module._parameters.get(attribute), nn.parameter.UninitializedParameter):
        raise ValueError(f"layer {layer!r} is lazy and has no weights yet: run one forward pass first")


def _refuse_parametrized(layer: str, attribute: str) -> None:
    raise ValueError(
        f"the {attribute} of layer {layer!r} is computed by a parametrization (weight_norm, prune, ...), "
        f"so it cannot be put on a sphere: remove it (torch.nn.utils.parametrize.remove_parametrizations), "
        f"or leave the layer out with Rule({layer!r}, p=None, sparse=False)"
    )


def _refuse_bilinear(model: nn.Module, rules: Sequence[Rule]) -> set[int]:
    """The identities of the rules that leave a Bilinear layer out; an error where a rule asks for one."""
    leaving = set()
    for layer, module in model.named_modules():
        rule = _first_match(rules, layer, f"{layer}.weight", module) if isinstance(module, nn.Bilinear) else None
        if rule is not None and not rule.leaves_out:
            raise TypeError(
                f"layer {layer!r} is nn.Bilinear: each output is a quadratic form, not a neuron with a weight row. "
                f"Leave it to SGD with Rule({layer!r}, p=None, sparse=False) before the rule that matches it"
            )
        if rule is not None:
            leaving.add(id(rule))
    return leaving


def select(model: nn.Module, rules: Sequence[Rule] | None = None, include_last: bool = False) -> list[NeuronWeight]:
    """The weights of ``model`` that are neurons, in registration order.

    Every Linear, Conv and ConvTranspose weight and MultiheadAttention's input projections, but the last Linear or
    Conv in registration order (a model with only one keeps it). Not norms, biases, embeddings, a weight shared
    with an embedding, frozen parameters, or neurons of a single weight. A weight shared by several layers counts
    once. A layer of another type takes part if it has a method ``neuron_rows(name) -> NeuronLayout | None``; one that
    holds only its connections, such as `lpsphere.sparse.SparseLinear`, returns a `SegmentLayout`.

    Args:
        model: Any module.
        rules: The first rule that matches a weight is attached to it.
        include_last: Select the output layer too.

    Returns:
        The selected weights.

    Raises:
        ValueError: If nothing can be selected, a rule matches nothing, or a selected weight is no plain parameter.
        TypeError: If a rule asks for a Bilinear layer.
    """
    rules = list(rules or ())
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper would change every name
    satisfied = _refuse_bilinear(model, rules)
    barred: dict[int, str] = {}
    embeddings = {id(m._parameters.get("weight")) for m in model.modules() if isinstance(m, _EMBEDDINGS)}
    found: list[NeuronWeight] = []
    refused: list[tuple[int, str, str]] = []
    last = None
    seen: set[int] = set()
    for layer, module in model.named_modules():
        for attribute, layout in _weights_of(module):
            name = f"{layer}.{attribute}" if layer else attribute
            rule = _first_match(rules, layer, name, module)
            is_embedding = isinstance(module, _EMBEDDINGS)
            if is_embedding and rule is None:
                continue
            if rule is not None and rule.leaves_out:
                satisfied.add(id(rule))
            _refuse_lazy(module, attribute, layer)
            weight = module._parameters.get(attribute)
            place = id(module) if weight is None else id(weight)
            if not is_embedding:
                last = place
            if weight is None:
                if rule is None or not rule.leaves_out:
                    refused.append((place, layer, attribute))
                continue
            reason = _bar(weight, layout, seen, set() if is_embedding else embeddings)
            if reason is None:
                seen.add(id(weight))
                found.append(NeuronWeight(name, module, attribute, layout, rule))
            elif rule is not None:
                barred[id(rule)] = f"{name}, which {reason}"
    selected = found
    if not include_last and len(found) + len(refused) > 1:
        selected = [n for n in found if id(n.weight) != last]
        refused = [entry for entry in refused if entry[0] != last]
    for _, layer, attribute in refused:
        _refuse_parametrized(layer, attribute)
    _check_rules([rule for rule in rules if id(rule) not in satisfied], selected, found, barred)
    if not selected:
        raise ValueError(
            f"{type(model).__name__} has no trainable Linear, Conv or ConvTranspose weight to select: give a layer of "
            "your own a method neuron_rows(name) -> NeuronLayout, or unfreeze the weights"
        )
    return selected


def _bar(weight: nn.Parameter, layout: Layout, seen: set[int], embeddings: set[int]) -> str | None:
    """Why a weight cannot be selected, or None."""
    if id(weight) in embeddings:
        return "is shared with an embedding"
    if id(weight) in seen:
        return "is shared with an earlier layer"
    if not weight.requires_grad:
        return "is frozen"
    return "has neurons of a single weight" if layout.fan_in(weight) < 2 else None


def _check_rules(
    rules: Sequence[Rule], selected: Sequence[NeuronWeight], found: Sequence[NeuronWeight], barred: dict[int, str]
) -> None:
    for rule in rules:
        if any(n.rule is rule for n in selected):
            continue
        if any(n.rule is rule for n in found):
            remedy = "it matches only the output layer, which is left out: pass include_last=True"
        elif id(rule) in barred:
            remedy = f"it reaches only {barred[id(rule)]}: take the rule out"
        elif any(rule.matches(n.name.rpartition(".")[0], n.name, n.module) for n in found):
            remedy = "earlier rules take all of its layers: put it before them"
        else:
            names = ", ".join(n.name for n in found[:20]) + (", ..." if len(found) > 20 else "")
            remedy = f"correct its pattern or types; the weights are {names}"
        raise ValueError(f"{rule} matches nothing: {remedy}")


def _widths(module: nn.Module, names: tuple[str, ...]) -> int | None:
    return next((int(getattr(module, name)) for name in names if hasattr(module, name)), None)


def without_norm(model: nn.Module, names: Sequence[NeuronWeight]) -> list[str]:
    """Names of the selected weights that no normalisation follows before the next layer, in registration order.

    A layer of another input width is not the next one but runs beside it, such as the convolution of a shortcut.
    """
    weights_of: dict[int, list[str]] = {}
    for neuron in names:
        weights_of.setdefault(id(neuron.module), []).append(neuron.name)
    waiting: list[tuple[int | None, str]] = []
    bare: list[str] = []
    for module in model.modules():
        is_layer = any(True for _ in _weights_of(module)) and not isinstance(module, _EMBEDDINGS)
        if isinstance(module, _NORMS):
            waiting = []
        elif is_layer:
            width = _widths(module, ("in_features", "in_channels", "embed_dim"))
            fed = [width is None or out is None or width % out == 0 for out, _ in waiting]
            bare += [name for (_, name), feeds in zip(waiting, fed, strict=True) if feeds]
            waiting = [entry for entry, feeds in zip(waiting, fed, strict=True) if not feeds]
            out = _widths(module, ("out_features", "out_channels", "embed_dim"))
            waiting += [(out, name) for name in weights_of.get(id(module), [])]
    return bare  # what is still waiting feeds no layer: there is none for its outputs to starve
