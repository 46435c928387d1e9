"""State dictionaries in safetensors files, whose sparse weights are kept as their connections."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lpsphere.sparse.encoding import decode, encode
from lpsphere.sparse.linear import SparseLinear
from lpsphere.sparse.preparation import mask_names
from lpsphere.sparse.structure import pointers_of

__all__ = ["read_tensors", "write_dense", "write_sparse"]

_KEY = "lpsphere.sparse"
_VERSION = 1
_PARTS = ("values", "counts", "gaps")


def write_dense(path: Path, model: nn.Module) -> None:
    """Write a model's state_dict."""
    save_file(_plain(_state(model)), path)


def write_sparse(path: Path, model: nn.Module) -> None:
    """Write a model's state_dict, with its weights as their connections wherever that is smaller.

    Args:
        path: The file.
        model: A model with its masks in force, on the CPU.
    """
    state = _state(model)
    tensors = dict(state)
    entries: dict[str, Any] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        if isinstance(module, SparseLinear):
            names = [f"{dot}weight", f"{dot}row_pointers", f"{dot}columns"]
            structure = encode(module.row_pointers.diff(), module.columns)
            parts, kind = (module.weight.detach(), *structure), "layer"
            shape = [module.out_features, module.in_features]
            _put(tensors, entries, names, {"shape": shape, "kind": kind}, parts)
            continue
        masks = mask_names(module)
        for name, weight in module._parameters.items():
            if weight is None or weight.ndim < 2 or not weight.numel() or f"{dot}{name}" not in tensors:
                continue
            mask = module._buffers.get(f"{name}_mask") if f"{name}_mask" in masks else None
            masked = mask is not None and f"{dot}{name}_mask" in tensors
            names = [f"{dot}{name}", *([f"{dot}{name}_mask"] if masked else [])]
            exists = (mask if masked and mask is not None else weight.detach() != 0).reshape(len(weight), -1)
            parts = (weight.detach().reshape(exists.shape)[exists], *encode(exists.sum(1), exists.nonzero()[:, 1]))
            if _bytes(parts) < _bytes(tensors[n] for n in names):
                entry = {"shape": list(weight.shape), "kind": "masked" if masked else "weight"}
                _put(tensors, entries, names, entry, parts)
    metadata = {_KEY: json.dumps({"version": _VERSION, "tensors": entries, "order": list(state)})}
    save_file(_plain(tensors), path, metadata)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state_dict of a safetensors file, dense or with connections, on the CPU.

    Raises:
        ValueError: If the file is damaged, or of a later version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if _KEY not in metadata:
            return tensors
        header = json.loads(metadata[_KEY])
        if header["version"] > _VERSION:
            raise ValueError(f"it is of version {header['version']}, and this lpsphere reads {_VERSION}: update it")
        for name, entry in header["tensors"].items():
            parts = [tensors.pop(f"{name}#{part}") for part in _PARTS]
            tensors.update(_decoded(name, entry, *parts))
        return {name: tensors[name] for name in header["order"]}
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): restore the file, or export the model again") from error


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a state_dict.

    Raises:
        TypeError: If there is something else in it.
    """
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"the state_dict has {name!r}, {type(value).__name__}: only tensors can be written")
    return {name: value.detach() for name, value in state.items()}


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors takes them: contiguous, and each with memory of its own."""
    plain, seen = {}, set()
    for name, tensor in tensors.items():
        contiguous = tensor.contiguous()
        place = contiguous.untyped_storage().data_ptr()
        plain[name] = contiguous.clone() if place in seen else contiguous
        seen.add(place)
    return plain


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _put(
    tensors: dict[str, Tensor],
    entries: dict[str, Any],
    names: list[str],
    entry: dict[str, Any],
    parts: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Let the parts take the place of the tensors of these names; the first is the weight's."""
    for name in names:
        tensors.pop(name, None)
    entries[names[0]] = entry
    for part, tensor in zip(_PARTS, parts, strict=True):
        tensors[f"{names[0]}#{part}"] = tensor


def _decoded(name: str, entry: Mapping[str, Any], values: Tensor, counts: Tensor, gaps: Tensor) -> dict[str, Tensor]:
    """The tensors that the parts stand for."""
    shape = torch.Size(entry["shape"])
    width = shape[1:].numel()
    if counts.shape != shape[:1] or values.shape != gaps.shape:
        raise ValueError(f"{name} has {counts.numel()} neurons, {values.numel()} values and {gaps.numel()} places")
    columns = decode(counts, gaps, width)
    rows = torch.arange(shape[0]).repeat_interleave(counts.long())
    if entry["kind"] == "layer":
        prefix = name.removesuffix("weight")
        pointers = pointers_of(rows, shape[0])
        return {name: values, f"{prefix}row_pointers": pointers, f"{prefix}columns": columns.int()}
    places = rows * width + columns
    dense = values.new_zeros(shape)
    dense.view(-1)[places] = values
    if entry["kind"] == "weight":
        return {name: dense}
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[places] = True
    return {name: dense, f"{name}_mask": mask}
