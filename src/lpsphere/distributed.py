"""Training in several processes: every collective of the package, and which rows of a shared tensor a process has.

Under DDP every process has all weights and averaged gradients, so that it decides alone what the others decide too:
all that is exchanged is a hash, once. Under FSDP2 each process has some rows (neurons) of every weight; what ranks
connections of a whole layer or network is then found from counts, without gathering weights. One process pays nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = [
    "Shards",
    "agree",
    "anywhere",
    "as_shared",
    "ddp_wrappers",
    "inner",
    "is_shared",
    "local",
    "processes",
    "row_range",
    "rows_of",
    "shards_of",
    "total",
    "whole",
]

AnyTensor = TypeVar("AnyTensor", bound=Tensor)
_DIGIT = 8  # bits of a number that are found in one round


def processes(group: dist.ProcessGroup | None = None) -> int:
    """The number of processes that train together; 1 where torch.distributed is not in use."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def is_shared(tensor: Tensor) -> bool:
    """Whether it is a DTensor, of which this process has a part."""
    return hasattr(tensor, "to_local")


def local(tensor: AnyTensor) -> AnyTensor:
    """What this process has of a tensor: its part of a DTensor, which shares memory with it; else the tensor itself."""
    if not is_shared(tensor):
        return tensor
    with torch.no_grad():  # or it would be another tensor each time, and part of a graph
        return cast("AnyTensor", cast("Any", tensor).to_local())


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; that of a DTensor is gathered, so that every process must ask for it."""
    return cast("Tensor", cast("Any", tensor).full_tensor()) if is_shared(tensor) else tensor


def row_range(parameter: Tensor) -> tuple[int, int]:
    """The first row of a parameter that this process has, and the one after its last.

    Raises:
        ValueError: If the parameter is shared otherwise than by rows.
    """
    if not is_shared(parameter):
        return 0, len(parameter)
    mesh, dim = _mesh_of(parameter)
    rows, size = parameter.shape[0], mesh.size(dim)
    each = -(-rows // size)
    first = min(mesh.get_local_rank(dim) * each, rows)
    return first, min(first + each, rows)


def rows_of(values: Tensor, parameter: Tensor) -> Tensor:
    """What this process has of values that belong to a parameter, such as its mask or its state.

    Args:
        values: A DTensor; or a plain tensor, shape (rows, ...), with all rows of the parameter.
        parameter: The parameter.
    """
    if is_shared(values) or not is_shared(parameter):
        return local(values)
    first, last = row_range(parameter)
    return values[first:last]


def as_shared(values: Tensor, parameter: Tensor) -> Tensor:
    """The inverse of `rows_of`: a DTensor with the placement of the parameter, which shares memory with the values.

    Args:
        values: Shape (rows here, ...).
        parameter: The parameter; of one that is not shared, the values are returned as they are.
    """
    if not is_shared(parameter) or is_shared(values):
        return values
    from torch.distributed.tensor import DTensor

    shape = torch.Size([parameter.shape[0], *values.shape[1:]])
    stride = torch.empty(shape, device="meta").stride()
    shared = cast("Any", parameter)
    return DTensor.from_local(
        values.detach(), shared.device_mesh, shared.placements, run_check=False, shape=shape, stride=stride
    )


def _mesh_of(parameter: Tensor) -> tuple[Any, int]:
    """The mesh of processes that share a parameter, and which of its dimensions divides the rows."""
    from torch.distributed.tensor import Replicate, Shard

    shared = cast("Any", parameter)
    by_rows = [i for i, placement in enumerate(shared.placements) if placement == Shard(0)]
    others = [placement for placement in shared.placements if placement not in (Shard(0), Replicate())]
    if len(by_rows) != 1 or others:
        raise ValueError(
            f"a weight of shape {tuple(parameter.shape)} is placed as {tuple(shared.placements)}: neurons must be "
            "whole on a process. Shard along dimension 0 only, as fully_shard does by itself"
        )
    return shared.device_mesh, by_rows[0]


def shards_of(parameters: Sequence[Tensor]) -> Shards | None:
    """The processes that share the rows of these parameters; None: each process has all of them.

    Raises:
        ValueError: If they are shared otherwise than by rows, only some of them, or not all in the same way.
    """
    shared = [parameter for parameter in parameters if is_shared(parameter)]
    if not shared:
        return None
    if len(shared) < len(parameters):
        raise ValueError(
            f"{len(shared)} of the {len(parameters)} selected weights are sharded: apply fully_shard to the whole "
            "model before anything is attached to it, or leave the other layers out with Rule(name, sparse=False)"
        )
    mesh, dim = _mesh_of(shared[0])
    if any(_mesh_of(parameter) != (mesh, dim) for parameter in shared):
        raise ValueError("the selected weights are sharded over different meshes: give fully_shard the same mesh")
    return Shards(mesh.get_group(dim), local(shared[0]).device)


class Shards:
    """The processes that share the rows of layers; all of them must call the same methods in the same order.

    Args:
        group: The processes.
        device: Where the layers are.
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        self.group, self.device = group, device

    def total(self, counts: Iterable[int]) -> list[int]:
        """The sums of each process's counts."""
        return self._reduce(list(counts), dist.ReduceOp.SUM, torch.int64)

    def largest(self, value: float) -> float:
        """The largest of each process's value."""
        return float(self._reduce([value], dist.ReduceOp.MAX, torch.float64)[0])

    def any(self, value: bool) -> bool:
        """Whether it holds for one of them."""
        return self.total([int(value)])[0] > 0

    def lowest(self, scores: Tensor, places: Tensor, size: int, count: int) -> Tensor:
        """The ``count`` smallest of all processes' scores, exactly; ties go to the lower place.

        Some bits of the threshold are found in each round, from how many scores have which value in these bits; then,
        where not all that are equal to it are chosen, the last place that is. No score leaves its process.

        Args:
            scores: Those of this process, float32, shape (n,); NaN ranks highest.
            places: Their places among all, int64, shape (n,), each less than ``size``.
            size: As above.
            count: How many, at most as many as there are scores in all.

        Returns:
            bool, shape (n,): which of this process's scores are among them.
        """
        chosen = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        if count == 0:
            return chosen
        open_ = torch.arange(len(scores), device=scores.device)
        for numbers, shift in _digits(_ordered(scores), 32, places, size):
            digits = (numbers[open_] >> shift) & (2**_DIGIT - 1)
            counts = self.total(torch.bincount(digits, minlength=2**_DIGIT).tolist())
            digit = 0
            while counts[digit] < count:
                count -= counts[digit]
                digit += 1
            chosen[open_[digits < digit]] = True
            open_ = open_[digits == digit]
            if counts[digit] == count:
                break
        chosen[open_] = True
        return chosen

    def _reduce(self, values: list[Any], operation: Any, dtype: torch.dtype) -> list[Any]:
        reduced = torch.tensor(values, dtype=dtype, device=self.device)
        dist.all_reduce(reduced, operation, group=self.group)
        return reduced.tolist()


def _ordered(scores: Tensor) -> Tensor:
    """int32 whose bits, read without a sign, are in the order of the scores."""
    bits = (scores.float() + 0.0).view(torch.int32)  # of the two zeros, one is left
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF) ^ -(2**31)
    return torch.where(scores.isnan(), torch.full_like(bits, -1), bits)


def _digits(scores: Tensor, bits: int, places: Tensor, size: int) -> Iterator[tuple[Tensor, int]]:
    """The digits of the scores, then of the places, the highest first: what to look at, and by how much to shift it."""
    yield from ((scores, shift) for shift in range(bits - _DIGIT, -1, -_DIGIT))
    digits = -(-max(1, size - 1).bit_length() // _DIGIT)
    yield from ((places, shift) for shift in range((digits - 1) * _DIGIT, -1, -_DIGIT))


def agree(numbers: Sequence[int], device: torch.device, group: dist.ProcessGroup | None = None) -> list[bool]:
    """Which numbers are the same in all processes, by one reduction of two numbers each.

    Args:
        numbers: Whole numbers of at most 62 bits.
        device: Where the model is.
        group: The processes; None: all.
    """
    both = torch.tensor([*numbers, *(-n for n in numbers)], dtype=torch.int64, device=_device(device, group))
    dist.all_reduce(both, dist.ReduceOp.MAX, group=group)
    most, least = both.chunk(2)
    return [bool(same) for same in (most == -least).tolist()]


def total(values: Tensor) -> Tensor:
    """The sum over all processes, in place; the values as they are where there is only one."""
    if processes() > 1:
        dist.all_reduce(values)
    return values


def anywhere(value: bool, device: torch.device) -> bool:
    """Whether it holds in one of all processes.

    Args:
        value: Whether it holds here.
        device: Where the model is.
    """
    return value if processes() == 1 else bool(total(torch.tensor(int(value), device=_device(device, None))))


def _device(device: torch.device, group: dist.ProcessGroup | None) -> torch.device:
    """Where the processes can exchange tensors: NCCL has no CPU, where a model may still be."""
    if device.type in str(dist.get_backend_config(group)):
        return device
    return torch.device("cuda", torch.cuda.current_device())


def inner(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of DDP and of torch.compile, which would change the names of its parts."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        else:
            return model


def ddp_wrappers(model: nn.Module) -> list[tuple[DistributedDataParallel, str]]:
    """The DDP wrappers around a model, and what it is called within each, "" if it is the wrapped module itself.

    A wrapper knows its module but not the other way round, so they are looked for among all objects.
    """
    found = []
    for thing in gc.get_objects():
        if issubclass(type(thing), DistributedDataParallel) and "module" in thing._modules:
            found += [(thing, name) for name, module in thing.module.named_modules() if module is model]
    return found
