"""From a trained sparse model to one that computes the same with less."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lpsphere.sparse.chain import SparseChain
from lpsphere.sparse.compaction import Compacted, CompactionReport, LayerCompaction
from lpsphere.sparse.folding import drop_dead_channels, fold_norms, replace_module
from lpsphere.sparse.graph import CONVOLUTIONS, NotUnderstoodError, is_left, read_graph
from lpsphere.sparse.joining import Link, collapse, find_runs, join, pieces
from lpsphere.sparse.linear import SparseLinear
from lpsphere.sparse.preparation import (
    bytes_of,
    difference,
    drop_masks,
    make_dense,
    prepared,
    shared_parameters,
    tensors_in,
)
from lpsphere.sparse.timing import microseconds

__all__ = ["compact"]

_LAYERS = (nn.Linear, SparseLinear, *CONVOLUTIONS)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_COMPUTED = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_GAIN = 0.97
"""A form is exchanged for another only if that takes at most this part of its time: less than that is noise."""
_SMALL = 2**15
"""Weights of the largest dense layer that is tried as part of a chain of sparse ones."""
_LARGEST_DENSE = 2**28
"""Weights of the largest sparse layer that is looked into in dense form."""


def compact(
    model: nn.Module,
    example: Tensor | Sequence[Any],
    *,
    goal: Literal["speed", "size"] = "speed",
    keep: Sequence[str] = (),
    tolerance: float = 1e-5,
) -> Compacted:
    """A smaller or faster model for inference with the same outputs; the given one is untouched.

    What is done, where torch.fx can trace the model and as far as the structure is understood (chains and residual sums
    of Linear, convolutions, batch norm, activations, dropout, pooling and flattening):

    1. Masks are applied and left out: a weight whose mask says that it does not exist is 0.
    2. Batch norm is folded into the layer before it, or, where it follows an activation, into the layers after it. The
       latter is left where zeros are padded to its outputs, since that would not be exact.
    3. A neuron whose inputs are all constant is: it goes into the biases of the layers that read it.
    4. A neuron or map that nothing reads is removed, with what it reads and what they alone fed.
    5. A Linear becomes a `SparseLinear` where that is measured to be faster on this machine, with the present number of
       threads, for a batch of the example's size (``goal="speed"``: a layer first, then the whole model), or smaller
       in memory (``goal="size"``). Convolutions stay dense: at the sparsities at which they can be pruned, an index
       costs more than the products that it saves.
    6. Such layers that read nothing but one another, with a ReLU between or not, become one `SparseChain` where that is
       measured to be faster (``goal="speed"``), with small dense layers among them. It stands at the place of the first
       of them, ``nn.Identity`` at the others', or instead of a ``nn.Sequential`` that did nothing else.

    Whatever is not understood is left exactly as it is, as are layers with hooks, with parameters that other layers
    share, and within modules of torch that do not call them, such as ``nn.TransformerEncoderLayer``. A model that
    cannot be traced, or takes arguments that the example does not have, gets step 5 alone; the report says why.

    The result is of the given model's class, in evaluation mode with frozen parameters: not to be trained. Layers that
    are not joined keep their names; their sizes and the forms in ``state_dict`` may differ, so save it with
    ``torch.save``, or export it.

    Args:
        model: Any module on the CPU, with masks in force, or with zeros in place.
        example: Inputs it is called with: a tensor, or a sequence of positional arguments.
        goal: What decides between the forms of a Linear.
        keep: Names or shell-style patterns of layers to leave as they are; one that matches nothing is an error.
        tolerance: Largest difference allowed between the outputs for the example, in units of the largest of them,
            or absolute where all are below 1.

    Returns:
        The model and the report of what was done, with measured times (the least of many) and bytes.

    Raises:
        TypeError: If an argument is not of its type, or the model returns no tensors.
        ValueError: If the goal is unknown, the tolerance negative, a pattern matches no layer, or the model or the
            example is not on the CPU.
        RuntimeError: If the outputs differ by more than allowed, or the new model fails; nothing is returned then.

    Example:
        >>> result = compact(model, x[:128])
        >>> print(result.report)
        >>> fast = result.model
    """
    args = _check(model, example, goal, keep, tolerance)
    reference = _Holder(prepared(model))
    drop_masks(reference)
    expected = reference(*args)
    if not tensors_in(expected):
        raise TypeError(f"the model must return tensors, got {type(expected).__name__}")
    left = _matching(reference.model, keep)
    work = copy.deepcopy(reference)
    make_dense(work, {f"model.{name}" for name in left}, _LARGEST_DENSE)
    structure = _restructure(work, args, expected, left, tolerance)
    try:
        variant = _in_best_forms(work, args, goal, left, structure.runs, expected, tolerance)
        found = variant.holder(*args)
    except Exception as error:  # the model's own code on exchanged layers
        raise RuntimeError(
            f"the compacted model fails on the example ({type(error).__name__}: {error}): name the layers that it uses "
            'otherwise than by calling them, such as keep=("head",)'
        ) from error
    distance, largest = difference(expected, found)
    allowed = tolerance * max(1.0, largest)
    if not distance <= allowed:
        raise RuntimeError(
            f"the outputs of the compacted model differ from the model's by {distance:.3g}, more than the "
            f"{allowed:.3g} allowed: raise tolerance if that will do, or leave layers as they are with keep"
        )
    report = _report(reference, variant, args, goal, structure, distance)
    return Compacted(variant.holder.model, report)


class _Holder(nn.Module):
    """Holds a model, so that the model itself can be exchanged like its layers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, *args: Any) -> Any:
        """What the model returns for copies of the arguments: it may change its inputs."""
        return self.model(*copy.deepcopy(args))


@dataclass(frozen=True)
class _Structure:
    """What is known of a model: which norms went where, what can be joined, and why nothing was done."""

    folded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    runs: Sequence[Sequence[Link]] = ()
    note: str = ""


@dataclass(frozen=True)
class _Variant:
    """A model with some of its layers exchanged, and the names of those that each chain computes."""

    holder: _Holder
    joined: Mapping[SparseChain, Sequence[str]] = field(default_factory=dict)


def _check(model: object, example: object, goal: object, keep: object, tolerance: object) -> tuple[Any, ...]:
    """The positional arguments of the example."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"compact takes an nn.Module, got {type(model).__name__}")
    if goal not in ("speed", "size"):
        raise ValueError(f'goal must be "speed" or "size", got {goal!r}')
    if isinstance(keep, str) or not isinstance(keep, Sequence) or not all(isinstance(name, str) for name in keep):
        raise TypeError(f'keep must be a sequence of names of layers, such as ("head",), got {keep!r}')
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
        raise TypeError(f"tolerance must be a number of at least 0, such as 1e-5, got {tolerance!r}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be a number of at least 0, such as 1e-5, got {tolerance}")
    if isinstance(example, Tensor):
        args: tuple[Any, ...] = (example.detach(),)
    elif isinstance(example, Sequence) and not isinstance(example, str) and tensors_in(example):
        args = tuple(arg.detach() if isinstance(arg, Tensor) else arg for arg in example)
    else:
        raise TypeError(
            f"example must be a tensor that the model takes, or a sequence of arguments, got {type(example).__name__}"
        )
    for what, tensors in (("model", [*model.parameters(), *model.buffers()]), ("example", tensors_in(args))):
        elsewhere = {tensor.device for tensor in tensors if tensor.device.type != "cpu"}
        if elsewhere:
            raise ValueError(f"compact works on the CPU, but the {what} is on {elsewhere.pop()}: move it with .cpu()")
    return args


def _matching(model: nn.Module, keep: Sequence[str]) -> set[str]:
    """The names of the layers that a caller wants to keep."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for pattern in keep:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"keep={pattern!r} matches no layer of the model: choose from {', '.join(names[1:21])}")
    chosen = {name for pattern in keep for name in fnmatch.filter(names, pattern)}
    return {name for name in names if any(name == above or name.startswith(f"{above}.") for above in chosen)}


def _restructure(holder: _Holder, args: tuple[Any, ...], expected: Any, left: set[str], tolerance: float) -> _Structure:
    """Steps 2 to 4, in place."""
    try:
        values, traced = read_graph(holder.model, copy.deepcopy(args), shared_parameters(holder), left)
        distance, largest = difference(expected, traced)
        if not distance <= tolerance * max(1.0, largest):
            raise NotUnderstoodError("the graph that torch.fx traces computes something else")
    except NotUnderstoodError as reason:
        return _Structure(note=str(reason))
    folded = fold_norms(holder, values)
    drop_dead_channels(values)
    return _Structure(folded, find_runs(holder.model, values))


def _exchangeable(holder: _Holder, left: set[str]) -> dict[str, nn.Linear]:
    """The Linear layers that may be exchanged."""
    shared, found = shared_parameters(holder), {}
    modules = dict(holder.model.named_modules())
    for name, module in modules.items():
        if type(module) is not nn.Linear or name in left or is_left(module, shared):
            continue
        above = ["", *(name[:i] for i, letter in enumerate(name) if letter == ".")] if name else []
        # Modules of torch may compute with the weights of those in them instead of calling them.
        kinds = [type(modules[parent]) for parent in above if parent in modules]
        if any(kind.__module__.startswith("torch.nn.") and kind not in _CONTAINERS for kind in kinds):
            continue
        if module.weight.dtype in _COMPUTED:
            found[name] = module
    return found


def _in_best_forms(
    holder: _Holder,
    args: tuple[Any, ...],
    goal: str,
    left: set[str],
    runs: Sequence[Sequence[Link]],
    expected: Any,
    tolerance: float,
) -> _Variant:
    """The model with the better form of each Linear."""
    all_layers = _exchangeable(holder, left)
    # With half of its connections or more there is nothing to gain.
    layers = {n: m for n, m in all_layers.items() if int((m.weight != 0).sum()) <= m.weight.numel() // 2}
    given = _inputs(holder, layers, args)
    sparse = {name: SparseLinear.from_dense(layers[name]) for name in layers if name in given}
    if goal == "size":
        smaller = {name: new for name, new in sparse.items() if bytes_of(new) < bytes_of(layers[name])}
        return _Variant(_exchanged(holder, smaller))
    faster = {}
    for name, new in sparse.items():
        times = microseconds([lambda f=form: f(given[name]) for form in (layers[name], new)])  # type: ignore[misc]  # noqa: B023
        if times[1] < _GAIN * times[0]:
            faster[name] = new
    # Alone, a sparse layer pays for bringing its input into its own order, which another before it would have done.
    variants = [_Variant(holder), *(_Variant(_exchanged(holder, chosen)) for chosen in (faster, sparse) if chosen)]
    forms = {n: SparseLinear.from_dense(layer) for n, layer in all_layers.items() if layer.weight.numel() <= _SMALL}
    parts = [pieces(runs, names, sparse) for names in (sparse, forms | sparse)]
    for i, chains in enumerate(parts):
        if chains and chains not in parts[:i]:
            variants += _joined(holder, args, chains, forms | sparse, faster, expected, tolerance)
    args = copy.deepcopy(args)
    times = microseconds([lambda m=variant.holder.model: m(*args) for variant in variants], 0.1)  # type: ignore[misc]
    best = 0
    for i, taken in enumerate(times):
        best = i if taken < _GAIN * times[best] else best
    return variants[best]


def _joined(
    holder: _Holder,
    args: tuple[Any, ...],
    chains: Sequence[Sequence[Link]],
    forms: Mapping[str, SparseLinear],
    faster: Mapping[str, nn.Module],
    expected: Any,
    tolerance: float,
) -> list[_Variant]:
    """The model with these chains, if it then still returns what is expected."""
    new, joined = dict(faster), {}
    for run in chains:
        chain, replaced = join(run, forms)
        new.update(replaced)
        joined[chain] = [link.linear for link in run]
    for shorter in (True, False):
        exchanged = _exchanged(holder, new)
        if shorter:
            collapse(exchanged.model, new.values())
        try:
            distance, largest = difference(expected, exchanged(*args))
        except Exception:  # the model's own code looks into what was exchanged
            continue
        if distance <= tolerance * max(1.0, largest):
            return [_Variant(exchanged, joined)]
    return []


def _exchanged(holder: _Holder, layers: Mapping[str, nn.Module]) -> _Holder:
    """A copy of the model with other layers; parameters are not copied."""
    exchanged = copy.deepcopy(holder, {id(tensor): tensor for tensor in (*holder.parameters(), *holder.buffers())})
    for name, layer in layers.items():
        replace_module(exchanged, exchanged.model.get_submodule(name), layer)
    return exchanged


def _inputs(holder: _Holder, layers: Mapping[str, nn.Module], args: tuple[Any, ...]) -> dict[str, Tensor]:
    """What each layer is first called with."""
    given: dict[str, Tensor] = {}
    handles = []
    for name, layer in layers.items():

        def keep_input(_: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], name: str = name) -> None:
            found = inputs[0] if inputs else keywords.get("input")
            if name not in given and isinstance(found, Tensor):
                given[name] = found.clone(memory_format=torch.preserve_format)

        handles.append(layer.register_forward_pre_hook(keep_input, with_kwargs=True))
    try:
        holder(*args)
    finally:
        for handle in handles:
            handle.remove()
    return given


def _report(
    before: _Holder,
    variant: _Variant,
    args: tuple[Any, ...],
    goal: str,
    structure: _Structure,
    distance: float,
) -> CompactionReport:
    after = variant.holder
    old = {name: module for name, module in before.model.named_modules() if type(module) in _LAYERS}
    chains = {name: (chain, i) for chain, names in variant.joined.items() for i, name in enumerate(names)}
    places = {module: name for name, module in after.model.named_modules()}
    new: dict[str, nn.Module] = {}
    timed: dict[str, nn.Module] = {}
    for name in old:
        if name in chains:
            chain, i = chains[name]
            new[name] = chain.layers[i]
            timed |= {name: chain} if i == 0 else {}
        else:
            new[name] = timed[name] = after.model.get_submodule(name)
    inputs = _inputs(before, old, args), _inputs(after, timed, args)
    layers = []
    for name in old:
        times: list[float | None] = [None, None]
        if name in inputs[0] and (name in inputs[1] or name not in timed):
            pairs = [(m[name], given[name]) for m, given in zip((old, timed), inputs, strict=True) if name in m]
            times[: len(pairs)] = microseconds([lambda m=module, x=given: m(x) for module, given in pairs])  # type: ignore[misc]
        layers.append(
            LayerCompaction(
                name=name,
                before=_shape(old[name]),
                after=_shape(new[name]),
                connections=_connections(new[name]),
                form="sparse" if type(new[name]) is SparseLinear else "dense",
                norms=tuple(norm for norm, into in structure.folded.items() if name in into),
                joined=places[chains[name][0]] if name in chains else "",
                microseconds_before=times[0],
                microseconds_after=times[1],
            )
        )
    args = copy.deepcopy(args)
    whole = microseconds([lambda: before.model(*args), lambda: after.model(*args)], seconds=0.1)
    return CompactionReport(
        goal, tuple(layers), whole[0], whole[1], bytes_of(before), bytes_of(after), distance, structure.note
    )


def _shape(module: nn.Module) -> tuple[int, ...]:
    if isinstance(module, SparseLinear):
        return module.out_features, module.in_features
    assert isinstance(module.weight, Tensor)
    return tuple(module.weight.shape)


def _connections(module: nn.Module) -> int:
    assert isinstance(module.weight, Tensor)
    return module.weight.numel() if isinstance(module, SparseLinear) else int((module.weight != 0).sum())
