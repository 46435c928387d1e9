"""Masks in several processes: they are kept out of DDP's broadcast, and all processes must start from the same ones.

Decisions follow from weights, averaged gradients and a generator with a common seed. A broadcast of the masks would
hide that one of these is not common; so they are compared once, by a hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lpsphere.distributed import agree, ddp_wrappers, inner, is_shared, row_range
from lpsphere.neurons import NeuronLayout, NeuronWeight
from lpsphere.topology.granularity import Granularity

__all__ = ["broadcast_again", "check_agreement", "check_sharded", "keep_from_broadcast"]

_IGNORED = "_ddp_params_and_buffers_to_ignore"  # read by DDP when it wraps a module


def keep_from_broadcast(model: nn.Module, names: Iterable[str], wrapped: bool) -> None:
    """Tell DDP to leave buffers alone, before or after it wraps the model.

    Args:
        model: The model, wrapped or not.
        names: The names of the buffers in the model itself.
        wrapped: Whether DDP may have wrapped it already, or a module that it is part of.
    """
    module, buffers = inner(model), set(names)
    compiled = {f"_orig_mod.{name}" for name in buffers}
    setattr(module, _IGNORED, sorted({*getattr(module, _IGNORED, ()), *buffers, *compiled}))
    for wrapper, name in ddp_wrappers(module) if wrapped else ():
        wrapper.parameters_to_ignore |= {f"{name}.{buffer}" if name else buffer for buffer in buffers}


def broadcast_again(model: nn.Module, names: Iterable[str]) -> None:
    """Undo `keep_from_broadcast` for buffers that are gone."""
    module, buffers = inner(model), set(names)
    left = [name for name in getattr(module, _IGNORED, ()) if name.removeprefix("_orig_mod.") not in buffers]
    if left:
        setattr(module, _IGNORED, left)
    elif hasattr(module, _IGNORED):
        delattr(module, _IGNORED)


def check_agreement(
    method: str, settings: Mapping[str, Any], masks: Mapping[str, Any], device: torch.device, group: Any
) -> None:
    """See that all processes have the same settings and masks, by one reduction of four numbers.

    Args:
        method: The name of the method.
        settings: Its state but for the masks.
        masks: The masks that every process has whole.
        device: Where the model is.
        group: The processes.

    Raises:
        RuntimeError: If they do not, in every process.
    """
    same_settings, same_masks = agree([_fingerprint(settings), _fingerprint(masks)], device, group)
    if not same_masks:
        raise RuntimeError(
            f"{method} starts from different connections in different processes: masks made from weights "
            '(initial_sparsity="keep") need the same weights everywhere. Attach the method after '
            "DistributedDataParallel has made them so, load the same checkpoint in every process, or give every "
            "process the same seed"
        )
    if not same_settings:
        raise RuntimeError(
            f"{method} has other settings, another seed or another checkpoint in different processes: give every "
            "process the same arguments, and load the same checkpoint or none"
        )


def check_sharded(layers: Sequence[NeuronWeight], granularity: Granularity) -> None:
    """Refuse sharded weights whose neurons or blocks are not whole in one process.

    Raises:
        ValueError: If there are any; the message says what to do.
    """
    for neuron in layers:
        if not is_shared(neuron.parameter):
            continue
        layer = neuron.name.rpartition(".")[0]
        if neuron.layout != NeuronLayout():
            raise ValueError(
                f"the neurons of {neuron.name} are not its rows, and its rows are sharded: leave it out with "
                f"Rule({layer!r}, p=None, sparse=False), or do not shard it"
            )
        first, last = row_range(neuron.parameter)
        if first % granularity.block[0] or last % granularity.block[0]:
            raise ValueError(
                f"blocks of {granularity.block[0]} neurons do not fit the {last - first} rows of {neuron.name} that a "
                f"process has: leave it dense with Rule({layer!r}, sparse=False), or choose another granularity"
            )


def _fingerprint(value: Any) -> int:
    """A hash of 62 bits of plain values and tensors."""
    digest = hashlib.blake2b(digest_size=8)
    _feed(digest, value)
    return int.from_bytes(digest.digest(), "little") >> 2


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for key in sorted(value):
            digest.update(repr(key).encode())
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(str(len(value)).encode())
        for entry in value:
            _feed(digest, entry)
    elif isinstance(value, Tensor):
        array = value.detach().cpu().contiguous()
        digest.update(repr(tuple(array.shape)).encode())
        flat = array.flatten()
        digest.update((np.packbits(flat.numpy()) if flat.dtype == torch.bool else flat.view(torch.uint8).numpy()).data)
    else:
        digest.update(repr(value).encode())
