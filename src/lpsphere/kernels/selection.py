"""Choosing among scores and places without copies of them: what is kept is moved together in place. Needs Numba.

Knows arrays; a *place* is row * fan_in + column, the index of a connection in the dense weight, flattened. Arguments
are trusted, and ties go to what comes first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["collect", "keep_above", "merge", "top_of_rows"]

_CHUNK = 128
"""Scores that are compared at once; few chunks hold one to be looked at."""


@njit(nogil=True, cache=True)
def collect(
    scores: Any, start: int, least: float, first: int, taken: Any, found: Any, places: Any, filled: int
) -> tuple[int, int]:
    """Append the scores of magnitude above ``least``, and their places, until there is no room.

    Args:
        scores: Float, shape (n,); NaN is left out.
        start: Where to begin.
        least: What a magnitude must exceed.
        first: The place of the first score.
        taken: Which scores are left out, int64, ascending.
        found: Where scores are appended.
        places: Where their places are appended, int64.
        filled: Entries of both that are in use.

    Returns:
        Where to go on, n if all is done; and the entries in use now.
    """
    least = scores.dtype.type(least)
    while start < scores.size:
        chunk = scores[start : start + _CHUNK]
        above = np.int32(0)
        if chunk.size == _CHUNK:
            for i in range(_CHUNK):  # a fixed number of entries of a slice: in this form it becomes vector instructions
                above += np.int32(1) if abs(chunk[i]) > least else np.int32(0)
        else:
            above = np.int32(chunk.size)
        if above:
            if filled + above > found.size:
                return start, filled
            for i in range(chunk.size):
                if abs(chunk[i]) > least and not _among(taken, start + i):
                    found[filled], places[filled] = chunk[i], first + start + i
                    filled += 1
        start += chunk.size
    return start, filled


@njit(nogil=True)
def _among(values: Any, value: int) -> bool:
    """Whether ascending values have one."""
    low, high = 0, values.size
    while low < high:
        middle = (low + high) // 2
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return bool(low < values.size and values[low] == value)


@njit(nogil=True, cache=True)
def keep_above(scores: Any, places: Any, least: float, ties: int) -> int:
    """Move the scores of magnitude above ``least``, and the first ``ties`` equal to it, to the front; how many."""
    least = scores.dtype.type(least)
    kept = 0
    for i in range(scores.size):
        size = abs(scores[i])
        if size == least:
            ties -= 1
        if size > least or (size == least and ties >= 0):
            scores[kept], places[kept] = scores[i], places[i]
            kept += 1
    return kept


@njit(nogil=True, cache=True)
def top_of_rows(pointers: Any, scores: Any, count: int, chosen: Any) -> None:
    """Choose the ``count`` largest scores of each row, or all where it has fewer; NaN is the largest.

    Args:
        pointers: Where each row begins, and where the last ends.
        scores: Float, shape (entries,).
        count: How many; the time is proportional to it.
        chosen: bool, shape (entries,), all False; True from now on where one is chosen.
    """
    for row in range(pointers.size - 1):
        for _ in range(min(count, pointers[row + 1] - pointers[row])):
            best = -1
            for i in range(pointers[row], pointers[row + 1]):
                if chosen[i] or (best >= 0 and scores[best] != scores[best]):
                    continue
                if best < 0 or scores[i] > scores[best] or scores[i] != scores[i]:
                    best = i
            chosen[best] = True


@njit(nogil=True, cache=True)
def merge(pointers: Any, columns: Any, kept: Any, grown: Any, fan_in: int, merged: Any, source: Any, new: Any) -> None:
    """The connections that stay and those that are grown, in one order.

    Args:
        pointers: Where the connections of each neuron begin, and where the last ended.
        columns: The features they come from, ascending within a neuron.
        kept: bool, shape (connections,): which of them stay; those that are grown back are added.
        grown: Places, int64, ascending, of none that stays.
        fan_in: Features.
        merged: int32, shape (2, connections now): their neurons and features are written here.
        source: int32, shape (connections now): which connection each has been, -1 if it is new.
        new: bool, shape (grown,): whether each is, rather than grown back.
    """
    at, g = 0, 0
    for row in range(pointers.size - 1):
        k, first = pointers[row], row * fan_in
        while True:
            has = k < pointers[row + 1]
            column = columns[k] if has else fan_in
            comes = g < grown.size and grown[g] <= first + column and grown[g] < first + fan_in
            if not has and not comes:
                break
            if comes:
                back = has and grown[g] == first + column
                merged[0, at], merged[1, at] = row, grown[g] - first
                source[at], new[g] = (k if back else -1), not back
                at, g = at + 1, g + 1
                if back:
                    kept[k], k = True, k + 1
                continue
            if kept[k]:
                merged[0, at], merged[1, at], source[at] = row, column, k
                at += 1
            k += 1
