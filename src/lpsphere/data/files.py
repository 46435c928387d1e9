"""Read a file that may be gzip-compressed."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path


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
        raise ValueError(f"{path} is cut short or damaged ({error}): get the file again from where it came") from error
