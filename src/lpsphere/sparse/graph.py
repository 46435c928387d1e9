"""What a model computes, as far as that is understood: which layers' channels go where. Reads; changes nothing.

The graph is that of torch.fx. Every value in it that has channels (the neurons of a Linear, the maps of a convolution)
is a `Value`; values whose channels correspond one to one, such as a layer's output and its activation, or the two
operands of a sum, share one `Channels`. Wherever something is not understood, the channels that reach it are *fixed*.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from lpsphere.sparse.chain import SparseChain
from lpsphere.sparse.linear import SparseLinear
from lpsphere.sparse.normalization import FeatureMajorBatchNorm1d

__all__ = ["CONVOLUTIONS", "NORMS", "Channels", "NotUnderstoodError", "Value", "is_left", "read_graph"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, FeatureMajorBatchNorm1d)
_SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_MAPS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid),
    *(nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid),
)
_MAX_POOLS: dict[type, int] = {nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3}
_MEAN_POOLS: dict[type, int] = {nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3}
_WHOLE_POOLS: dict[type, int] = {
    nn.AdaptiveAvgPool1d: 1,
    nn.AdaptiveAvgPool2d: 2,
    nn.AdaptiveAvgPool3d: 3,
    nn.AdaptiveMaxPool1d: 1,
    nn.AdaptiveMaxPool2d: 2,
    nn.AdaptiveMaxPool3d: 3,
}
_F = functional
_MAP_FUNCTIONS = {
    *(torch.relu, torch.relu_, torch.tanh, torch.sigmoid, torch.abs, torch.neg, operator.neg, operator.abs),
    *(_F.relu, _F.relu6, _F.leaky_relu, _F.elu, _F.selu, _F.celu, _F.gelu, _F.silu, _F.mish, _F.tanh, _F.sigmoid),
    *(_F.hardtanh, _F.hardswish, _F.hardsigmoid, _F.softplus, _F.softsign, _F.logsigmoid),
}
_MAP_METHODS = {"relu", "relu_", "tanh", "sigmoid", "abs", "neg"}
_JOINS: dict[object, Callable[..., Tensor]] = {
    name: function
    for function, names in (
        (torch.add, (operator.add, operator.iadd, torch.add, "add", "add_")),
        (torch.sub, (operator.sub, operator.isub, torch.sub, "sub", "sub_")),
        (torch.mul, (operator.mul, operator.imul, torch.mul, "mul", "mul_")),
    )
    for name in names
}
_POOL_FUNCTIONS: dict[object, int] = {
    _F.max_pool1d: 1,
    _F.max_pool2d: 2,
    _F.max_pool3d: 3,
    _F.adaptive_avg_pool1d: 1,
    _F.adaptive_avg_pool2d: 2,
    _F.adaptive_avg_pool3d: 3,
    _F.adaptive_max_pool1d: 1,
    _F.adaptive_max_pool2d: 2,
    _F.adaptive_max_pool3d: 3,
}
_DROPOUTS = {_F.dropout, _F.dropout1d, _F.dropout2d, _F.dropout3d, _F.alpha_dropout, _F.feature_alpha_dropout}
_VIEWS = {"view", "reshape", "flatten", "contiguous", "squeeze", "unsqueeze", "transpose", "permute", "detach"}


class NotUnderstoodError(Exception):
    """Why the structure of a model cannot be read: nothing of it may be changed."""


@dataclass(eq=False)
class Channels:
    """Channels that exist, or not, together. Joined ones share a root, which alone counts."""

    size: int
    fixed: bool = False
    _parent: Channels | None = None

    def root(self) -> Channels:
        """The one that stands for all that were joined with it."""
        return self if self._parent is None else self._parent.root()

    def join(self, other: Channels) -> None:
        """From now on both are one."""
        mine, theirs = self.root(), other.root()
        if mine is not theirs:
            theirs._parent, mine.fixed = mine, mine.fixed or theirs.fixed


@dataclass(eq=False)
class Value:
    """What a node of the graph computes.

    Attributes:
        kind: "source" (not understood, or the model's input), "linear", "conv", "norm", "map" (each channel by
            itself), "same" (a norm that was folded), "join" (an elementwise function of two), "flatten" (every channel
            becomes ``repeat`` features).
        channels: Its channels.
        shape: For the example.
        dim: The dimension that counts the channels.
        repeat: Features of a channel in that dimension, side by side.
        inputs: What it is computed from, as far as it has channels.
        name: The layer's name; "" where there is none.
        module: The layer.
        apply: For "map" and "join": what it makes of inputs that are the same at all places; None: not known.
        readers: What is computed from it; None: something that is not understood.
    """

    kind: str
    channels: Channels
    shape: tuple[int, ...]
    dim: int
    repeat: int = 1
    inputs: tuple[Value, ...] = ()
    name: str = ""
    module: nn.Module | None = None
    apply: Callable[..., Tensor] | None = None
    readers: list[Value | None] = field(default_factory=list)


def is_left(module: nn.Module, shared: Collection[int]) -> bool:
    """Whether a layer must stay as it is: it has hooks, or shares a parameter (by identity) with another module."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or any(id(parameter) in shared for parameter in module._parameters.values())


def read_graph(
    model: nn.Module, args: Sequence[Any], shared: Collection[int], keep: Collection[str]
) -> tuple[list[Value], Any]:
    """What the model computes, in evaluation mode, in the order of computation.

    Args:
        model: The model; it is run once.
        args: Its arguments.
        shared: Identities of the parameters that several modules have.
        keep: Names of layers that count as not understood.

    Returns:
        The values, and what the graph returns for the arguments, to be compared with what the model does.

    Raises:
        NotUnderstoodError: If it cannot be traced, with the reason.
    """
    try:
        graph = _Tracer().trace(model)
        shapes = _Shapes(fx.GraphModule(model, graph))
        outputs = shapes.run(*args)
    except Exception as error:  # tracing runs the model's own code on stand-ins, which may raise anything
        raise NotUnderstoodError(f"torch.fx cannot trace it ({type(error).__name__}: {error})") from error
    taken = [node for node in graph.nodes if node.op == "placeholder"]
    if len(taken) != len(args):
        raise NotUnderstoodError(f"its forward takes {len(taken)} arguments, and the example has {len(args)}")
    return _Reader(model, graph, shapes.shapes, shared, keep).read(), outputs


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """Layers of the package are units, like those of torch."""
        return isinstance(module, SparseLinear | SparseChain | FeatureMajorBatchNorm1d) or super().is_leaf_module(
            module, name
        )


class _Shapes(fx.Interpreter):
    """Runs a graph and keeps the shapes of what its nodes compute."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, node: fx.Node) -> Any:
        """One node."""
        result = super().run_node(node)
        if isinstance(result, Tensor):
            self.shapes[node] = tuple(result.shape)
        return result


class _Reader:
    def __init__(
        self,
        model: nn.Module,
        graph: fx.Graph,
        shapes: dict[fx.Node, tuple[int, ...]],
        shared: Collection[int],
        keep: Collection[str],
    ) -> None:
        self.graph, self.shapes, self.shared, self.keep = graph, shapes, shared, keep
        self.modules = dict(model.named_modules(remove_duplicate=False))
        calls = [node.target for node in graph.nodes if node.op == "call_module"]
        self.calls = Counter(id(self.modules[name]) for name in calls)
        read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
        self.opened = {id(self.modules.get(name.rpartition(".")[0])) for name in read}  # used other than by a call
        self.values: dict[fx.Node, Value] = {}
        self.order: list[Value] = []

    def read(self) -> list[Value]:
        for node in self.graph.nodes:
            _check_in_place(node, self.modules)
            value = self._value(node)
            if value is not None:
                self.values[node] = value
        return self.order

    def _value(self, node: fx.Node) -> Value | None:
        if node.op in ("placeholder", "get_attr") or _asks_for_batch(node):
            return None
        shape = self.shapes.get(node)
        value = None
        if node.op != "output" and shape is not None and node.args and isinstance(node.args[0], fx.Node):
            value = self._layer(node, shape) if node.op == "call_module" else self._function(node, shape)
        if value is None:
            for given in node.all_input_nodes:
                if given in self.values:
                    self._fix(self.values[given])
        return value

    def _fix(self, value: Value) -> None:
        value.channels.root().fixed = True
        value.readers.append(None)

    def _new(self, value: Value) -> Value:
        self.order.append(value)
        for given in value.inputs:
            given.readers.append(value)
        return value

    def _layer(self, node: fx.Node, shape: tuple[int, ...]) -> Value | None:
        module, name = self.modules[str(node.target)], str(node.target)
        alone = self.calls[id(module)] == 1 and id(module) not in self.opened
        if is_left(module, self.shared) or not alone or len(node.args) != 1 or node.kwargs or name in self.keep:
            return None
        kind, given = type(module), node.args[0]
        assert isinstance(given, fx.Node)
        if kind is nn.Linear:
            source = self._input(given, len(self.shapes[given]) - 1, module.in_features)
            channels = Channels(module.out_features)
            return self._new(Value("linear", channels, shape, len(shape) - 1, 1, (source,), name, module))
        if kind in CONVOLUTIONS and module.groups == 1 and len(shape) == module.weight.ndim:
            source = self._input(given, 1, module.in_channels)
            return self._new(Value("conv", Channels(module.out_channels), shape, 1, 1, (source,), name, module))
        value = self.values.get(given)
        if value is None or module.training:
            return None
        if kind in _SAME:
            return value
        if kind in NORMS and module.running_mean is not None and value.dim == 1 and value.repeat == 1:
            return self._new(Value("norm", value.channels, shape, 1, 1, (value,), name, module))
        if kind in _MAPS or (kind is nn.PReLU and module.num_parameters == 1):
            return self._map(value, shape, None if kind is nn.PReLU else module)
        if kind is nn.Flatten:
            return self._flatten(value, shape, module.start_dim, module.end_dim)
        return self._pool(value, shape, kind, module)

    def _input(self, node: fx.Node, dim: int, features: int) -> Value:
        """What a layer takes, with its features in dimension ``dim``."""
        value = self.values.get(node)
        if value is not None and value.dim == dim and value.channels.root().size * value.repeat == features:
            return value
        if value is not None:
            self._fix(value)
        return Value("source", Channels(features, fixed=True), self.shapes[node], dim)

    def _map(self, value: Value, shape: tuple[int, ...], apply: Callable[..., Tensor] | None) -> Value:
        return self._new(Value("map", value.channels, shape, value.dim, value.repeat, (value,), apply=apply))

    def _pool(self, value: Value, shape: tuple[int, ...], kind: type, module: nn.Module) -> Value | None:
        dims = {**_MAX_POOLS, **_MEAN_POOLS, **_WHOLE_POOLS}.get(kind)
        if dims is None or value.dim >= len(shape) - dims:
            return None
        mixes = kind in _MEAN_POOLS and (module.padding not in (0, (0,), (0,) * dims) or _divides(module))
        return self._map(value, shape, None if mixes else _same)

    def _flatten(self, value: Value, shape: tuple[int, ...], start: int = 0, end: int = -1) -> Value | None:
        """All dimensions from that of the channels on become one."""
        rank = len(value.shape)
        if value.dim != 1 or value.dim != start or end not in (-1, rank - 1):
            return None
        repeat = value.repeat
        for size in value.shape[2:]:
            repeat *= size
        return self._new(Value("flatten", value.channels, shape, 1, repeat, (value,)))

    def _function(self, node: fx.Node, shape: tuple[int, ...]) -> Value | None:
        target: Any = node.target
        if target in _JOINS:
            return self._join(node, shape, _JOINS[target])
        given, *rest = node.args
        value = self.values.get(given) if isinstance(given, fx.Node) else None
        if value is None or (len(node.all_input_nodes) > 1 and target not in ("view", "reshape")):
            return None
        if target in _MAP_FUNCTIONS or target in _MAP_METHODS:
            keywords = dict(node.kwargs)
            function = getattr(torch.Tensor, target) if isinstance(target, str) else target
            return self._map(value, shape, lambda constant: function(constant, *rest, **keywords))
        if target in _DROPOUTS and node.kwargs.get("training") is False:
            return value
        if target == "contiguous" and not rest:
            return value
        if target in (torch.flatten, "flatten"):
            return self._flatten(value, shape, *rest, **node.kwargs)  # type: ignore[arg-type]
        if target in ("view", "reshape") and len(rest) == 2 and rest[1] == -1 and shape[0] == value.shape[0]:
            return self._flatten(value, shape, 1)
        if target in _POOL_FUNCTIONS and value.dim < len(shape) - _POOL_FUNCTIONS[target]:
            return self._map(value, shape, _same)
        if target in ("mean", torch.mean):
            return self._mean(value, shape, *rest, **node.kwargs)  # type: ignore[arg-type]
        return None

    def _mean(
        self, value: Value, shape: tuple[int, ...], dim: Any = None, keepdim: bool = False, **other: Any
    ) -> Value | None:
        """The mean over dimensions that count neither samples nor channels."""
        rank = len(value.shape)
        if dim is None or other:
            return None
        dims = {d % rank for d in ((dim,) if isinstance(dim, int) else dim)}
        if dims & {0, value.dim}:
            return None
        left = value.dim if keepdim else value.dim - sum(d < value.dim for d in dims)
        return self._new(Value("map", value.channels, shape, left, value.repeat, (value,), apply=_same))

    def _join(self, node: fx.Node, shape: tuple[int, ...], function: Callable[..., Tensor]) -> Value | None:
        if len(node.args) != 2 or node.kwargs:
            return None
        one, other = node.args
        if isinstance(one, fx.Node) and isinstance(other, int | float) and one in self.values:
            return self._map(self.values[one], shape, lambda constant: function(constant, other))
        if not (isinstance(one, fx.Node) and isinstance(other, fx.Node)):
            return None
        a, b = self.values.get(one), self.values.get(other)
        if a is None or b is None or (a.dim, a.repeat, len(a.shape)) != (b.dim, b.repeat, len(b.shape)):
            return None
        if a.channels.root().size != b.channels.root().size:
            return None
        a.channels.join(b.channels)
        return self._new(Value("join", a.channels, shape, a.dim, a.repeat, (a, b), apply=function))


def _same(constant: Tensor) -> Tensor:
    return constant


def _divides(module: nn.Module) -> bool:
    """Whether a mean is not one: it divides by a number of its own."""
    return getattr(module, "divisor_override", None) is not None


def _asks_for_batch(node: fx.Node) -> bool:
    """x.size(0), x.shape[0] or its parts: whatever happens to channels, they stay the same."""
    if node.target == "size":
        return bool(node.args[1:] == (0,) and not node.kwargs)
    if node.target is getattr:
        return node.args[1] == "shape" and all(_asks_for_batch(user) for user in node.users)
    if node.target is operator.getitem:
        of = node.args[0]
        return isinstance(of, fx.Node) and of.target is getattr and bool(of.args[1] == "shape" and node.args[1] == 0)
    return False


def _check_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> None:
    """See that an operation in place changes nothing that is used elsewhere.

    Raises:
        NotUnderstoodError: If it does.
    """
    if node.op == "call_module":
        in_place = getattr(modules[str(node.target)], "inplace", False)
    elif node.op in ("call_function", "call_method"):
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        in_place = (name.endswith("_") and not name.endswith("__")) or "out" in node.kwargs
        in_place = (
            in_place or node.kwargs.get("inplace") or node.target in (operator.iadd, operator.isub, operator.imul)
        )
        in_place = in_place or (node.target in _MAP_FUNCTIONS and True in [a for a in node.args if a is True])
    else:
        return
    if not in_place:
        return
    given = node.args[0] if node.args else None
    while isinstance(given, fx.Node):
        if len(given.users) > 1 or "out" in node.kwargs:
            raise NotUnderstoodError(f"{node.name} changes in place what is used elsewhere too")
        module = modules.get(str(given.target)) if given.op == "call_module" else None
        views = type(module) in (*_SAME, nn.Flatten, nn.Unflatten) or given.target in (*_VIEWS, torch.flatten)
        given = given.args[0] if given.args and (views or given.target in _DROPOUTS) else None
