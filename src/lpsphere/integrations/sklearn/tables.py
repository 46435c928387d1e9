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

__all__ = ["FEW", "check_columns", "learn_scale", "merged", "standardised", "weights_of"]

FEW = 64
"""Distinct rows of a table that is learnt from as a whole at each step."""

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
    bad = [str(name) for name, kind in zip(columns, list(types), strict=False) if not _holds_numbers(x[name], kind)]
    if bad:
        raise ValueError(
            f"columns {', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''} hold categories, text or dates; networks "
            "take numbers. Encode them in a pipeline, such as make_pipeline(make_column_transformer((OneHotEncoder("
            f"handle_unknown='ignore'), {bad[:5]}), remainder='passthrough'), estimator)"
        )


def _holds_numbers(column: Any, kind: Any) -> bool:
    """Whether a column of this type holds numbers; one of objects is tried."""
    name = str(kind).lower()
    if name != "object":
        return not any(word in name for word in ("categor", "enum", "str", "date", "time", "period"))
    try:
        np.asarray(column).astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True


def weights_of(sample_weight: Any, x: Any) -> NDArray[np.float64] | None:
    """The weights of the rows, shape (n,); None if all are alike.

    Raises:
        ValueError: If one is negative.
    """
    if sample_weight is None:
        return None
    weights: NDArray[np.float64] = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
    return weights


def merged(
    x: Any, y: NDArray[Any], weights: NDArray[np.float64] | None
) -> tuple[Any, NDArray[Any], NDArray[np.float64] | None]:
    """Rows that are alike become one, with the sum of their weights, where from 2 to `FEW` are left.

    So few rows make one batch, in which a row of weight 2 is then exactly what the same row twice is.

    Args:
        x: Array or CSR matrix, shape (n, columns).
        y: Targets, (n,) or (n, outputs).
        weights: Of the rows, shape (n,); None: all 1.

    Returns:
        The rows as they are, or the distinct ones with their weights, in an order that depends on their values alone.
    """
    for end in (16 * FEW, x.shape[0]):  # most tables show at once that it is not worth while to sort them
        codes = y[:end] if y.dtype.kind in "biuf" else np.unique(y[:end], return_inverse=True)[1]
        rows = np.column_stack([_dense(x[:end]), codes])
        _, first, groups = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        if len(first) > FEW:
            return x, y, weights
    if len(first) < 2:
        return x, y, weights
    return x[first], y[first], np.bincount(groups.ravel(), weights).astype(np.float64)


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
