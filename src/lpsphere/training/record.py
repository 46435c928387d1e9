"""What a run is recorded with, so that it can be repeated."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """The versions that results depend on."""
    return {"lpsphere": version("lpsphere"), "torch": torch.__version__, "python": platform.python_version()}
