"""Giving freed memory back to the system, which the C library would keep for later."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

__all__ = ["give_back"]


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
