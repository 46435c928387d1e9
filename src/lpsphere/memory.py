"""Large temporaries whose memory goes back to the system, instead of being kept by the C library for later."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["give_back", "joined", "scratch"]


def scratch(count: int, dtype: torch.dtype) -> Tensor:
    """Room for so many numbers, shape (count,), zeros on the CPU: for large temporaries that are let go soon.

    It is of pages of its own, which go back at once, where the C library's heap would grow for it and stay so.
    """
    if count == 0:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(mmap.mmap(-1, count * dtype.itemsize), dtype=dtype, count=count)


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """``torch.cat`` of tensors of one dimension, in `scratch` where they are on the CPU."""
    kind = tensors[0].dtype
    if not all(tensor.is_cpu and tensor.dtype == kind for tensor in tensors):
        return torch.cat(list(tensors))
    together = scratch(sum(map(len, tensors)), kind)
    return torch.cat(list(tensors), out=together)


def give_back() -> None:
    """Return the pages of memory that is free; takes a few milliseconds, and does nothing where it is not glibc's.

    Worth it after large temporaries: glibc keeps the holes that they leave, and tensors, which are aligned, often do
    not fit into a hole of their own size, so that the process grows at the next pass.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
