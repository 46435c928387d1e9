"""Layers made smaller without a change of what the model returns: batch norm folded, constants too, dead neurons gone.

Works on the `Value` graph of a model in evaluation mode, and changes the model's layers in place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lpsphere.sparse.graph import Channels, Value

__all__ = ["drop_dead_channels", "fold_norms", "replace_module"]


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, under every name that it has below ``model``."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


@torch.no_grad()
def fold_norms(model: nn.Module, values: Sequence[Value]) -> dict[str, tuple[str, ...]]:
    """Fold each batch norm into the layer before it, or into all layers after it where that is exact.

    Args:
        model: The module that holds all layers below it; norms that are folded become ``nn.Identity``.
        values: Its graph; changed accordingly.

    Returns:
        For each norm that is gone, the names of the layers that do its work now.
    """
    folded: dict[str, tuple[str, ...]] = {}
    for norm in values:
        if norm.kind != "norm":
            continue
        scale, shift = _affine(norm)
        before = norm.inputs[0]
        after = _linear_readers(norm)
        if before.kind in ("linear", "conv") and before.readers == [norm]:
            weight = _columns(before) * scale[:, None, None]
            _write(before, weight, _bias(before) * scale + shift)
            folded[norm.name] = (before.name,)
        elif after and all(_takes_constants(layer) or not shift.any() for layer in after):
            for layer in after:
                weight = _columns(layer)
                _write(layer, weight * scale[None, :, None], _bias(layer) + weight.sum(2) @ shift)
            folded[norm.name] = tuple(layer.name for layer in after)
        else:
            continue
        assert norm.module is not None
        replace_module(model, norm.module, nn.Identity().eval())
        norm.kind, norm.module, norm.apply = "same", None, _same
    return folded


@torch.no_grad()
def drop_dead_channels(values: Sequence[Value]) -> None:
    """Remove what no output depends on, until nothing more is found.

    A channel that is constant is put into the biases of the layers that read it. A channel that no layer reads is
    removed, with what it reads; of the channels of a layer at least one is kept, since layers have at least one.

    Args:
        values: The graph of a model, whose layers are changed.
    """
    while True:
        constants = _constants(values)
        absorbed = [_absorb(value, constants[value.inputs[0]]) for value in values if value.kind in ("linear", "conv")]
        if not _remove(values, _kept(values)) and not any(absorbed):
            return


def _same(constant: Tensor) -> Tensor:
    return constant


def _columns(value: Value) -> Tensor:
    """A layer's weights in float64, shape (neurons, channels of its input, weights of one for the other)."""
    weight = value.module.weight  # type: ignore[union-attr]
    assert isinstance(weight, Tensor)
    return weight.detach().double().reshape(weight.shape[0], value.inputs[0].channels.root().size, -1)


def _bias(value: Value) -> Tensor:
    """A layer's biases in float64; zeros where it has none."""
    weight, bias = value.module.weight, value.module.bias  # type: ignore[union-attr]
    assert isinstance(weight, Tensor)
    return bias.detach().double() if isinstance(bias, Tensor) else weight.new_zeros(len(weight), dtype=torch.float64)


def _write(value: Value, columns: Tensor, bias: Tensor) -> None:
    """Set a layer's weights and biases, whose number may have changed; no biases where all are 0 and it has none."""
    module = value.module
    assert isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    old = module.weight
    shape = (len(columns), -1) if isinstance(module, nn.Linear) else (len(columns), -1, *old.shape[2:])
    module.weight = nn.Parameter(columns.reshape(shape).to(old.dtype).contiguous(), requires_grad=False)
    if module.bias is not None or bias.any():
        module.bias = nn.Parameter(bias.to(old.dtype), requires_grad=False)
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    else:
        module.out_channels, module.in_channels = module.weight.shape[:2]


def _affine(norm: Value) -> tuple[Tensor, Tensor]:
    """What a norm does to each channel: scale and shift, float64."""
    module = norm.module
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)
    assert module.running_mean is not None
    assert module.running_var is not None
    scale = (module.running_var.double() + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight.detach().double()
    shift = -module.running_mean.double() * scale
    return scale, shift if module.bias is None else shift + module.bias.detach().double()


def _linear_readers(norm: Value) -> list[Value]:
    """The layers that read it, flattened or not; none, if anything else does too."""
    found = []
    for reader in norm.readers:
        if reader is None:
            return []
        if reader.kind in ("linear", "conv"):
            found.append(reader)
            continue
        more = _linear_readers(reader) if reader.kind == "flatten" else []
        if not more:
            return []
        found += more
    return found


def _takes_constants(layer: Value) -> bool:
    """Whether an input that is the same everywhere adds the same everywhere: zeros around an image are another one."""
    module = layer.module
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) or module.padding_mode != "zeros":
        return True
    return module.padding == "valid" or (not isinstance(module.padding, str) and not any(module.padding))


def _constants(values: Sequence[Value]) -> dict[Value, Tensor]:
    """For every value its channels' constants, float64; NaN where a channel is none, as far as can be told."""
    constants: dict[Value, Tensor] = {}
    for value in values:
        for given in value.inputs:
            if given not in constants:  # a source
                constants[given] = torch.full((given.channels.root().size,), torch.nan, dtype=torch.float64)
        inputs = [constants[given] for given in value.inputs]
        if value.kind in ("linear", "conv"):
            found = _constant_neurons(value, inputs[0])
        elif value.kind == "norm":
            scale, shift = _affine(value)
            found = inputs[0] * scale + shift
        elif value.kind == "flatten":
            found = inputs[0]
        else:
            found = _applied(value, inputs)
        constants[value] = found.masked_fill(~found.isfinite(), torch.nan)
    return constants


def _applied(value: Value, inputs: Sequence[Tensor]) -> Tensor:
    """What an elementwise function makes of constants; of anything else nothing is known."""
    if value.apply is None:
        return torch.full_like(inputs[0], torch.nan)
    unknown = torch.stack([given.isnan() for given in inputs]).any(0)
    result = value.apply(*(given.nan_to_num(0.0).clone() for given in inputs))
    return result.masked_fill(unknown, torch.nan)


def _constant_neurons(value: Value, given: Tensor) -> Tensor:
    """The constants of a layer's neurons: all they read are constants."""
    weight = value.module.weight.detach()  # type: ignore[union-attr, operator]
    columns = weight.reshape(len(weight), given.numel(), -1)
    known = ~given.isnan() if _takes_constants(value) else given == 0
    varies = (columns[:, ~known] != 0).any(2).any(1)
    result = _bias(value) + columns[:, known].double().sum(2) @ given[known]
    return result.masked_fill(varies, torch.nan)


def _absorb(value: Value, given: Tensor) -> bool:
    """Put what a layer reads from constant channels into its biases; tells whether there was something."""
    known = ~given.isnan() if _takes_constants(value) else given == 0
    weight = value.module.weight.detach()  # type: ignore[union-attr, operator]
    reads = (weight.reshape(len(weight), given.numel(), -1) != 0).any(2).any(0)
    taken = known & reads
    if not taken.any():
        return False
    columns = _columns(value)
    bias = _bias(value) + columns[:, taken].sum(2) @ given[taken]
    columns[:, taken] = 0
    _write(value, columns, bias)
    return True


def _kept(values: Sequence[Value]) -> dict[Channels, Tensor]:
    """The channels that are read, of all that may be removed: at least one."""
    kept: dict[Channels, Tensor] = {}
    for value in values:
        root = value.channels.root()
        if not root.fixed:
            kept.setdefault(root, torch.zeros(root.size, dtype=torch.bool))
    for value in values:
        if value.kind in ("linear", "conv"):
            root = value.inputs[0].channels.root()
            if root in kept:
                weight = value.module.weight.detach()  # type: ignore[union-attr, operator]
                kept[root] |= (weight.reshape(len(weight), root.size, -1) != 0).any(2).any(0)
    for read in kept.values():
        if not read.any():
            read[0] = True
    return {root: read for root, read in kept.items() if not read.all()}


def _remove(values: Sequence[Value], kept: dict[Channels, Tensor]) -> bool:
    """Remove all channels but these; tells whether there was one."""
    for value in values:
        own = kept.get(value.channels.root())
        if value.kind == "norm" and own is not None:
            _slice_norm(value, own)
        if value.kind not in ("linear", "conv"):
            continue
        given = kept.get(value.inputs[0].channels.root())
        if own is None and given is None:
            continue
        columns, bias = _columns(value), _bias(value)
        columns = columns if given is None else columns[:, given]
        _write(value, columns if own is None else columns[own], bias if own is None else bias[own])
    for root, read in kept.items():
        root.size = int(read.sum())
    return bool(kept)


def _slice_norm(value: Value, kept: Tensor) -> None:
    module = value.module
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)
    for name in ("weight", "bias"):
        old = getattr(module, name)
        if old is not None:
            setattr(module, name, nn.Parameter(old.detach()[kept], requires_grad=False))
    assert module.running_mean is not None
    assert module.running_var is not None
    module.running_mean, module.running_var = module.running_mean[kept], module.running_var[kept]
    module.num_features = int(kept.sum())
