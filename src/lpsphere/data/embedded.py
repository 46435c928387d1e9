"""The small classification sets that ship with scikit-learn, so that nothing has to be downloaded."""

from __future__ import annotations

import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine

from lpsphere.data.dataset import Dataset, split_rows, standardise

_LOADERS = {"digits": load_digits, "breast_cancer": load_breast_cancer, "wine": load_wine}

EMBEDDED = tuple(_LOADERS)
"""Names that `load_embedded` knows."""


def load_embedded(name: str, test_fraction: float, split_seed: int) -> Dataset:
    """Load one of scikit-learn's sets: digits (1797 x 64), breast_cancer (569 x 30) or wine (178 x 13).

    Args:
        name: One of `EMBEDDED`.
        test_fraction: Share of the rows for testing.
        split_seed: Seed of the stratified split.

    Returns:
        The data; x is (n, features).

    Raises:
        ValueError: ``name`` is not known, or the split is impossible.
    """
    if name not in _LOADERS:
        raise ValueError(f"embedded data set {name!r}: allowed are {', '.join(EMBEDDED)}")
    bunch = _LOADERS[name]()
    classes = tuple(str(label) for label in bunch.target_names)
    features = tuple(str(feature) for feature in bunch.feature_names)
    train, test = split_rows(bunch.target, classes, test_fraction, split_seed)
    x_train, x_test = standardise(bunch.data[train], bunch.data[test], features)
    target = torch.from_numpy(bunch.target.astype("int64"))
    return Dataset(
        name=name,
        task="classification",
        x_train=torch.from_numpy(x_train),
        y_train=target[torch.from_numpy(train)],
        x_test=torch.from_numpy(x_test),
        y_test=target[torch.from_numpy(test)],
        classes=classes,
        features=features,
    )
