"""Which rows make up each step of an epoch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["batches"]


def batches(rows: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """The row indices of each step of an epoch: a permutation that depends on seed and epoch alone.

    Args:
        rows: Rows in all.
        batch_size: Rows of one step, at most all; an incomplete last batch is left out.
        seed: Seed of training, at least 0.
        epoch: The epoch, from 0.

    Returns:
        ``rows // batch_size`` int64 tensors of shape (batch_size,).
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return [torch.from_numpy(order[i : i + batch_size]) for i in range(0, rows - batch_size + 1, batch_size)]
