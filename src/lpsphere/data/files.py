"""Find and read files that may be gzip-compressed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

ENVIRONMENT = "LPSPHERE_DATA"
"""Environment variable that names the folder of data sets."""

AGAIN = "get the file again from where it came"
"""What to do about a damaged file."""


class ContentError(ValueError):
    """Data that are not those of the data set whose name they bear."""


def find_files(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The files of a folder, each possibly followed by ``.gz``; the plain file wins.

    Raises:
        FileNotFoundError: A file is missing; the message lists which.
    """
    found: dict[str, Path] = {}
    for name in names:
        for path in (folder / f"{name}.gz", folder / name):
            if path.is_file():
                found[name] = path
    missing = [name for name in names if name not in found]
    if missing:
        raise FileNotFoundError(
            f"folder {str(folder)!r} lacks {', '.join(missing)} (each may end in .gz): "
            "put these files there, or point --data to the folder that has them"
        )
    return found


def read_bytes(path: Path) -> bytes:
    """Content of a file, decompressed if it is gzip (recognised by content, not by name).

    Raises:
        ValueError: The compressed file is cut short or damaged.
    """
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is cut short or damaged ({error}): {AGAIN}") from error
