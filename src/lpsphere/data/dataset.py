"""The container that every loader fills, and how rows are split and scaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor

TEST_FRACTION = 0.25
"""Share of the rows for testing where neither the user nor the data set says otherwise."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training part and a test part, ready for a network.

    Attributes:
        name: Short name, for reports.
        task: ``"classification"`` or ``"regression"``.
        x_train: float32, (n, features) or (n, channels, height, width).
        y_train: (n,): int64 class indices, or float32 targets standardised with the training part's
            mean and standard deviation.
        x_test: As ``x_train``, scaled with the statistics of the training part.
        y_test: As ``y_train``, scaled with the statistics of the training part.
        classes: Name of each class, in the order of the indices; ``()`` for regression.
        features: Name of each column of x (after one-hot coding); ``()`` for images.
        target_mean: Regression only: mean of the training targets, in their own unit.
        target_std: Regression only: standard deviation of the training targets, in their own unit;
            ``y * target_std + target_mean`` is back in that unit.
    """

    name: str
    task: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: tuple[str, ...]
    features: tuple[str, ...]
    target_mean: float = 0.0
    target_std: float = 1.0

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (features,) or (channels, height, width)."""
        return tuple(self.x_train.shape[1:])

    @property
    def outputs(self) -> int:
        """Outputs that a network needs: one for each class, or 1 for regression."""
        return len(self.classes) or 1


@dataclass(frozen=True)
class Split:
    """How rows are split where the data come without a test part of their own.

    Attributes:
        fraction: Share of the rows for testing; None: the data set's own default.
        seed: Seed of the split.
    """

    fraction: float | None = None
    seed: int = 0

    def rows(
        self, targets: NDArray[Any], classes: Sequence[str], default: float = TEST_FRACTION
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `split_rows`; ``default`` is the share for testing where none is given."""
        return split_rows(targets, classes, default if self.fraction is None else self.fraction, self.seed)


def holdout(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Cut a validation part out of the training part, for the choice of hyper-parameters.

    The test part is not in the result, so nothing can be chosen by it. Features and targets keep the
    scale that was fitted on the whole training part.

    Args:
        dataset: The data; not changed.
        fraction: Share of the training rows to hold out, between 0 and 1 (both excluded).
        seed: Seed of the split (stratified for classification), independent of torch's generator.

    Returns:
        A data set whose test part is the validation part.

    Raises:
        ValueError: ``fraction`` is not between 0 and 1, or leaves too few rows of a class.
    """
    train, validation = split_rows(
        dataset.y_train.numpy(), dataset.classes, fraction, seed, option="fraction", seed_option="seed"
    )
    rows, held = torch.from_numpy(train), torch.from_numpy(validation)
    return replace(
        dataset,
        x_train=dataset.x_train[rows],
        y_train=dataset.y_train[rows],
        x_test=dataset.x_train[held],
        y_test=dataset.y_train[held],
    )


def split_rows(
    targets: NDArray[Any],
    classes: Sequence[str],
    fraction: float,
    seed: int,
    *,
    option: str = "test_fraction",
    seed_option: str = "split_seed",
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose which rows are for training and which for testing.

    Args:
        targets: (n,) class indices or real targets.
        classes: Class names; empty for regression (then the split is not stratified).
        fraction: Share of the rows for testing.
        seed: Seed of the split.
        option: What the caller calls ``fraction``, for messages.
        seed_option: What the caller calls ``seed``, for messages.

    Returns:
        Row indices for training and for testing, disjoint, together all rows.

    Raises:
        ValueError: ``fraction`` or ``seed`` out of range, or too few rows, in all or of a class.
    """
    check_fraction(fraction, option)
    if not 0 <= seed < 2**32:
        raise ValueError(f"{seed_option}={seed!r}: allowed are whole numbers from 0 to 2**32 - 1")
    rows = len(targets)
    if rows < 2:
        raise ValueError(f"only {rows} row(s) of data: at least 2 are needed, to train and to test")
    held = int(np.ceil(fraction * rows))
    needed = max(len(classes), 1)
    if min(held, rows - held) < needed:
        raise ValueError(
            f"{option}={fraction!r} of {rows} rows leaves {rows - held} to train and {held} to test; "
            f"each needs at least {needed} (one for each class): change {option} or give more rows"
        )
    if classes:
        _require_two_of_each(targets, classes)
    train, test = train_test_split(
        np.arange(rows), test_size=held, random_state=seed, stratify=targets if classes else None
    )
    absent = sorted(set(range(len(classes))) - set(targets[train].tolist())) if classes else []
    if absent:
        raise ValueError(
            f"{option}={fraction!r} leaves no training row of {listing([classes[i] for i in absent])}: "
            f"give a smaller {option}, or more rows of it"
        )
    return train, test


def check_fraction(fraction: float, option: str) -> None:
    """Raise ValueError unless ``fraction`` lies strictly between 0 and 1."""
    if not 0 < fraction < 1:
        raise ValueError(f"{option}={fraction!r}: allowed are numbers between 0 and 1, for example 0.25")


def standardise(
    train: NDArray[Any], test: NDArray[Any], names: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale columns to mean 0 and standard deviation 1 over the training rows.

    A column that is constant over the training rows is only centred (it becomes 0, never NaN).

    Args:
        train: (n, features), finite.
        test: (m, features), finite.
        names: Name of each column, for messages.

    Returns:
        Both arrays as float32.

    Raises:
        ValueError: A value is too large to be standardised in float32.
    """
    scaler = StandardScaler().fit(train)
    with np.errstate(over="ignore", invalid="ignore"):  # reported below, with the column's name
        scaled = [scaler.transform(part).astype(np.float32) for part in (train, test)]
    finite = np.logical_and(*(np.isfinite(part).all(axis=0) for part in scaled))
    bad = [name for name, good in zip(names, finite, strict=True) if not good]
    if bad:
        raise ValueError(
            f"values too large for float32 after standardisation in {listing(bad)}: "
            "give these columns in another unit, or as logarithms"
        )
    return scaled[0], scaled[1]


def listing(names: Sequence[str], limit: int = 20) -> str:
    """Quote and join names for a message, cut after ``limit`` of them."""
    text = ", ".join(repr(name) for name in names[:limit])
    return text if len(names) <= limit else f"{text}, ... ({len(names)} in all)"


def _require_two_of_each(targets: NDArray[Any], classes: Sequence[str]) -> None:
    counts = np.bincount(targets, minlength=len(classes))
    if len(classes) < 2:
        raise ValueError(f"only one class, {listing(classes)}: classification needs at least 2")
    rare = [name for name, count in zip(classes, counts, strict=True) if count < 2]
    if rare:
        raise ValueError(
            f"fewer than 2 rows of class {listing(rare)}: a stratified split needs at least 2 of each; "
            "add rows, or merge or remove these classes"
        )
