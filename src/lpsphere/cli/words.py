"""Words of the command line as values, and what all commands share."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import typer
from rich.console import Console

from lpsphere.training import Interrupted, value_of

__all__ = [
    "DATA",
    "METHOD",
    "RUN",
    "TRAINING",
    "command_line",
    "console",
    "exponent",
    "exponents",
    "fractions",
    "names",
    "numbers",
    "process",
    "settings",
    "stoppable",
]


def process() -> int:
    """Which of the processes that torchrun or accelerate has started this is; 0: the main or only one."""
    return int(os.environ.get("RANK", "0"))


console = Console(quiet=process() > 0, force_interactive=None if sys.stdout.isatty() else False)
"""Colours may be forced upon a log (FORCE_COLOR), a bar that is drawn over and over may not."""

DATA = "Data"
METHOD = "Method"
TRAINING = "Training"
RUN = "Run"
"""Panels of the help texts."""


def command_line() -> str:
    """The command as it was given, for the record."""
    return shlex.join(["lpsphere", *sys.argv[1:]])


@contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C in the midst of many runs: those that are done are kept."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        console.print("\nstopped; the finished runs are kept: give the same command to go on")
        raise typer.Exit(130) from None


def fractions(option: str, text: str) -> list[float]:
    """Different numbers between 0 and 1 from a text such as "0.9,0.98".

    Raises:
        ValueError: If it is none.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{option} takes numbers separated by commas, such as 0.9,0.98; got {text!r}") from error
    if not all(0 < value < 1 for value in values) or len(set(values)) < len(values):
        raise ValueError(f"{option} takes different numbers between 0 and 1; got {text!r}")
    return values


def exponent(option: str, text: str) -> float | Literal["auto"]:
    """An exponent of spheres, or "auto".

    Raises:
        ValueError: If it is neither.
    """
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{option} takes a number greater than 1, such as 1.15, or auto; got {text!r}") from error


def exponents(option: str, text: str) -> tuple[float, ...]:
    """Different exponents of spheres from a text such as "1.1,1.5,2".

    Raises:
        ValueError: If it is none.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} takes numbers separated by commas, such as 1.1,1.5,2; got {text!r}") from error
    if not all(1 < value < math.inf for value in values) or len(set(values)) < len(values):
        raise ValueError(f"{option} takes different numbers greater than 1; got {text!r}")
    return values


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers from a text such as "256,256".

    Raises:
        ValueError: If it is none.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} takes whole numbers separated by commas, such as 256,256; got {text!r}") from error


def names(text: str) -> tuple[str, ...]:
    """Names from a text such as "tensorboard,wandb"; none from an empty one."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def settings(entries: list[str], option: str = "--set") -> dict[str, Any]:
    """Settings from the entries of an option, such as "regrow=0.5".

    Raises:
        ValueError: If one has no "=".
    """
    values: dict[str, Any] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals:
            raise ValueError(f"{option} takes NAME=VALUE, such as {option} regrow=0.5; got {entry!r}")
        values[name.strip()] = value_of(value)
    return values
