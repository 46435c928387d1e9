"""Files and folders that are either complete or not there, and locks on them.

They are written beside, synced, then renamed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lpsphere.files import replace_file, sync

__all__ = ["exclusive", "prepare_folder", "remove_folder", "replace_folder", "replace_text"]


def replace_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def replace_folder(path: Path, write: Callable[[Path], object]) -> None:
    """The same for a folder; one that is there already is removed first."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write(temporary)
    for file in temporary.rglob("*"):
        sync(file)
    remove_folder(path)
    os.replace(temporary, path)
    sync(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder if it is there; it disappears under its name at once, never in part."""
    if path.exists():
        doomed = path.with_name(f".{path.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(path, doomed)
        shutil.rmtree(doomed)


@contextmanager
def exclusive(path: Path, *, wait: bool) -> Iterator[None]:
    """Keep a file or folder from other processes that ask for it, until it is let go or this process ends.

    Args:
        path: The file or folder; a hidden file beside it is the lock.
        wait: Wait for the process that has it.

    Raises:
        BlockingIOError: If another process has it and this one is not to wait.
        OSError: If the folder that it is in cannot be written to, with the reason and what to do.
    """
    prepare_folder(path.parent)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(blocking=wait)
    except Timeout as error:
        raise BlockingIOError(f"another process is at {path}") from error
    try:
        yield
    finally:
        lock.release()


def prepare_folder(path: Path) -> None:
    """Make the folder and see that it can be written to.

    Raises:
        OSError: If not, with the reason and what to do.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write to {path}: {error.strerror}. Choose another folder with --out") from error
