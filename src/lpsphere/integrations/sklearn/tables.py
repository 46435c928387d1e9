"""From the tables that users have to standardised tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches
from sklearn.utils.validation import _check_sample_weight
from torch import Tensor

__all__ = ["check_columns", "learn_scale", "standardised", "weights_of"]

_ROWS = 1 << 16
"""Rows looked at at a time, so that a large table is never copied as a whole in float64."""


def check_columns(x: Any) -> None:
    """Refuse a data frame with columns that are not numbers.

    Raises:
        ValueError: If there are any.
    """
    columns, types = getattr(x, "columns", None), getattr(x, "dtypes", None)
    if columns is None or types is None:
        return
    bad = [str(name) for name, kind in zip(columns, list(types), strict=False) if not _is_number(kind)]
    if bad:
        raise ValueError(
            f"columns {', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''} hold categories, text or dates; networks "
            "take numbers. Encode them in a pipeline, such as make_pipeline(make_column_transformer((OneHotEncoder("
            f"handle_unknown='ignore'), {bad[:5]}), remainder='passthrough'), estimator)"
        )


def _is_number(kind: Any) -> bool:
    """Whether a column of this type may hold numbers; object columns are left for scikit-learn to convert."""
    name = str(kind).lower()
    return name == "object" or not any(word in name for word in ("categor", "enum", "str", "date", "time", "period"))


def weights_of(sample_weight: Any, x: Any) -> NDArray[np.float64] | None:
    """The weights of the rows, shape (n,); None if all are alike.

    Raises:
        ValueError: If one is negative, or none is above 0.
    """
    if sample_weight is None:
        return None
    weights: NDArray[np.float64] = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
    if not weights.any():
        raise ValueError("sample_weight is 0 for every row: no row is left to learn from")
    return weights


def _dense(x: Any) -> NDArray[Any]:
    values: NDArray[Any] = x.toarray() if hasattr(x, "toarray") else x
    return values


def learn_scale(scaler: StandardScaler, x: Any, weights: NDArray[np.float64] | None) -> None:
    """Add rows to the means and variances of the columns.

    Args:
        scaler: What holds them.
        x: Array or sparse matrix, shape (n, columns).
        weights: Of the rows, shape (n,), or None.
    """
    for part in gen_batches(x.shape[0], _ROWS):
        scaler.partial_fit(_dense(x[part]), sample_weight=None if weights is None else weights[part])


def standardised(scaler: StandardScaler, x: Any) -> Tensor:
    """The columns with mean 0 and variance 1 in the rows that the scale was learnt from.

    A column that is constant there is 0, whatever it holds now: nothing can have been learnt about it.

    Args:
        scaler: Means and variances of the columns.
        x: Array or sparse matrix, shape (n, columns).

    Returns:
        float32, (n, columns).
    """
    constant = constant_columns(scaler)
    scaled = np.empty(x.shape, dtype=np.float32)
    for part in gen_batches(x.shape[0], _ROWS):
        scaled[part] = scaler.transform(_dense(x[part]))
    scaled[:, constant] = 0
    return torch.from_numpy(scaled)


def constant_columns(scaler: StandardScaler) -> NDArray[np.bool_]:
    """Which columns are constant but for rounding: scikit-learn leaves their scale at 1. Shape (columns,)."""
    constant: NDArray[np.bool_] = (scaler.scale_ == 1.0) & ~np.isclose(scaler.var_, 1.0)
    return constant
