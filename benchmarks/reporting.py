"""What every benchmark does with its options and its rows: read, print, write. For the scripts beside it."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lpsphere.text import markdown

__all__ = ["command_line", "processor", "save", "show", "version_of"]


def command_line(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the option --out, which says what the benchmark's docstring says."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    return parser


def show(row: Mapping[str, object]) -> None:
    """A row on a line, at once."""
    print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def version_of(package: str) -> str | None:
    """The installed version, None without one."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """What the processor calls itself, and the widest vectors it has; only on Linux more than the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.machine()
    found = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = found.get("flags", "").split()
    widest = next((flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags), "no AVX2")
    names = ("model name", "cpu family", "model", "cpu MHz")
    return ", ".join([*(f"{name} {found[name]}" for name in names if name in found), widest])


def save(
    out: Path | None,
    *,
    packages: Sequence[str] = (),
    table: Sequence[Mapping[str, str]] | None = None,
    **content: Any,
) -> None:
    """Write a result with the command, the versions and the processor that it is from; nothing without a file.

    Args:
        out: The JSON file.
        packages: Those whose versions matter, beside torch.
        table: Rows of a Markdown table that is written beside it, with the suffix ``.md``.
        content: What else goes into it.
    """
    if out is None:
        return
    versions = {name: version_of(name) for name in ("torch", *packages)} | {"python": platform.python_version()}
    record = {"command": shlex.join(["python", *sys.argv]), "versions": versions, "processor": processor(), **content}
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if table is not None:
        out.with_suffix(".md").write_text(markdown(table), encoding="utf-8")
