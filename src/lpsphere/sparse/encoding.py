"""Sparse matrices as few bytes: the values, how many each row has, and the gaps between their columns.

Gaps are small where columns are many, so that a byte often holds one (at 95 % sparsity the mean gap is 19).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["decode", "encode"]

_TYPES = (torch.uint8, torch.uint16, torch.int32, torch.int64)


def encode(counts: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """The structure of a sparse matrix in the smallest integers that hold it.

    Args:
        counts: Entries of each row, shape (rows,).
        columns: Their columns, row by row, ascending in each; shape (entries,).

    Returns:
        The counts; and the gaps, shape (entries,): the columns between an entry and the one before it in its row, or
        the row's beginning.
    """
    columns = columns.long()
    before = torch.full_like(columns, -1)
    before[1:] = columns[:-1]
    before[_beginnings(counts)] = -1
    return _smallest(counts), _smallest(columns - before - 1)


def decode(counts: Tensor, gaps: Tensor, width: int) -> Tensor:
    """The columns of the entries, int64.

    Args:
        counts: As returned by `encode`.
        gaps: Likewise.
        width: Number of columns.

    Raises:
        ValueError: If they describe no matrix of that width.
    """
    counts, steps = counts.long(), gaps.long() + 1
    if (counts < 0).any() or int(counts.sum()) != steps.numel() or (steps < 1).any():
        raise ValueError(f"the rows have {int(counts.sum())} entries, and there are {steps.numel()}")
    ends = steps.cumsum(0)
    first = counts.cumsum(0) - counts
    bases = torch.cat([ends.new_zeros(1), ends])[first]
    columns = ends - bases.repeat_interleave(counts) - 1
    if columns.numel() and int(columns.max()) >= width:
        raise ValueError(f"an entry is in column {int(columns.max())} of {width}")
    return columns


def _beginnings(counts: Tensor) -> Tensor:
    """Where the rows that have entries begin."""
    counts = counts.long()
    return (counts.cumsum(0) - counts)[counts > 0]


def _smallest(numbers: Tensor) -> Tensor:
    largest = int(numbers.max()) if numbers.numel() else 0
    return numbers.to(next(kind for kind in _TYPES if largest <= torch.iinfo(kind).max))
