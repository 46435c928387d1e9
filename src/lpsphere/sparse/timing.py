"""How long calls take, on this machine, now."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

__all__ = ["microseconds"]

_BLOCK = 1e-3
"""Seconds of one measurement: long beside the clock's resolution, short beside the pauses that others cause."""
_FEWEST, _MOST = 3, 60


@torch.no_grad()
def microseconds(calls: Sequence[Callable[[], object]], seconds: float = 0.03) -> list[float]:
    """The time of one call of each, without gradients: the least of many measurements, taken in turn.

    The least, since whatever else the machine does can only add to it. Every function is called once beforehand, which
    compiles what has to be compiled.

    Args:
        calls: Functions without arguments.
        seconds: How long to measure each of them, about; 3 to 60 measurements are taken.

    Returns:
        Microseconds, one number a function.
    """
    repeats = []
    for call in calls:
        call()
        repeats.append(max(1, round(_BLOCK / max(_seconds(call, 1), 1e-9))))
    best = [float("inf")] * len(calls)
    begun, rounds = time.perf_counter(), 0
    while rounds < _FEWEST or (rounds < _MOST and time.perf_counter() - begun < seconds * len(calls)):
        rounds += 1
        best = [min(least, _seconds(call, n)) for least, call, n in zip(best, calls, repeats, strict=True)]
    return [1e6 * least for least in best]


def _seconds(call: Callable[[], object], repeats: int) -> float:
    begun = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begun) / repeats
