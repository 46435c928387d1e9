"""Runs of linear layers in a model that may be computed in one call, and models in which they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from lpsphere.sparse.chain import SparseChain
from lpsphere.sparse.folding import replace_module
from lpsphere.sparse.graph import Value
from lpsphere.sparse.linear import SparseLinear

__all__ = ["Link", "collapse", "find_runs", "join", "pieces"]


@dataclass(frozen=True)
class Link:
    """A linear layer of a run.

    Attributes:
        linear: Its name.
        relu: Name of the ``nn.ReLU`` that follows it; "" if none does.
    """

    linear: str
    relu: str


def find_runs(model: nn.Module, values: Sequence[Value]) -> list[tuple[Link, ...]]:
    """The longest runs of at least two ``nn.Linear`` that read nothing but one another, with a ReLU between or not.

    Args:
        model: The model.
        values: Its graph, with norms folded.
    """
    names = {id(module): name for name, module in model.named_modules()}
    steps = {value: _step(value) for value in values if value.kind == "linear"}
    followers = {after for _, after in steps.values()}
    runs: list[tuple[Link, ...]] = []
    for value in steps:
        if value in followers:
            continue
        run: list[Link] = []
        at: Value | None = value
        while at is not None:
            relu, after = steps[at]
            run.append(Link(at.name, "" if relu is None else names[id(relu)]))
            at = after
        if len(run) > 1:
            runs.append(tuple(run))
    return runs


def _step(value: Value) -> tuple[nn.ReLU | None, Value | None]:
    """The ReLU after a layer, and the layer that alone reads what comes out of it."""
    relu = None
    while len(value.readers) == 1 and value.readers[0] is not None:
        reader = value.readers[0]
        if reader.kind == "linear":
            return relu, reader
        if type(reader.apply) is nn.ReLU and relu is None:
            relu = reader.apply
        elif reader.kind != "same":
            break
        value = reader
    return relu, None


def pieces(runs: Sequence[Sequence[Link]], names: Collection[str], sparse: Collection[str]) -> list[tuple[Link, ...]]:
    """The parts of runs, of two layers or more, whose layers are all in ``names`` and at least one in ``sparse``."""
    found: list[tuple[Link, ...]] = []
    for run in runs:
        part: list[Link] = []
        for link in [*run, None]:
            if link is not None and link.linear in names:
                part.append(link)
                continue
            if len(part) > 1 and any(link.linear in sparse for link in part):
                found.append(tuple(part))
            part = []
    return found


def join(run: Sequence[Link], forms: Mapping[str, SparseLinear]) -> tuple[SparseChain, dict[str, nn.Module]]:
    """The chain of a run, whose layers are found in ``forms``, and what to put in the place of the run's modules."""
    chain = SparseChain([forms[link.linear] for link in run], [bool(link.relu) for link in run]).eval()
    gone = [*(link.linear for link in run[1:]), *(link.relu for link in run if link.relu)]
    return chain, {run[0].linear: chain, **{name: nn.Identity().eval() for name in gone}}


def collapse(model: nn.Module, new: Iterable[nn.Module]) -> None:
    """Put a chain in the place of a ``nn.Sequential`` in which nothing else does something; nothing where nothing does.

    To call a module takes as long as thousands of connections, also if it does nothing.

    Args:
        model: The model below which to look.
        new: The modules that were exchanged.
    """
    added = {id(module) for module in new}
    for module in reversed(list(model.modules())):  # those within others first
        if type(module) is not nn.Sequential or not len(module):
            continue
        hooks = (module._forward_hooks, module._forward_pre_hooks)
        acting = [child for child in module if type(child) is not nn.Identity]
        if any(hooks) or len(acting) > 1 or not added.intersection(id(child) for child in module):
            continue
        if acting and type(acting[0]) is not SparseChain:  # which keeps its name
            continue
        left = acting[0] if acting else module[0]
        added.add(id(left))
        replace_module(model, module, left)
