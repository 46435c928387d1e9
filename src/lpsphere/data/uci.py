"""Tables of the UCI and Statlog collections: dna, mushroom and climate."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_svmlight_file
from sklearn.preprocessing import OneHotEncoder

from lpsphere.data.dataset import Dataset, Split, standardise
from lpsphere.data.files import ContentError, find_files, read_bytes
from lpsphere.data.openml import Download

DNA_FILES = ("dna.scale", "dna.scale.t")
"""Training and test part."""

MUSHROOM_FILE, CLIMATE_FILE = "agaricus-lepiota.data", "pop_failures.dat"
"""The one file of each of these sets."""

_DNA_CLASSES = ("EI", "IE", "N")
_DNA_COUNTS = ([464, 485, 1051], [303, 280, 603])  # of the classes, in training and test part
_DNA_FEATURES = tuple(f"{position:+d}={base}" for position in (*range(-30, 0), *range(1, 31)) for base in "ACG")

_MUSHROOM_CLASSES = ("edible", "poisonous")
_MUSHROOM_COUNTS = [4208, 3916]
_MUSHROOM_CODES = {  # the values that occur, as known before any split, so that the width does not depend on it
    "cap-shape": "bcfksx",
    "cap-surface": "fgsy",
    "cap-color": "bcegnpruwy",
    "bruises?": "ft",
    "odor": "acflmnpsy",
    "gill-attachment": "af",
    "gill-spacing": "cw",
    "gill-size": "bn",
    "gill-color": "beghknopruwy",
    "stalk-shape": "et",
    "stalk-root": "?bcer",
    "stalk-surface-above-ring": "fksy",
    "stalk-surface-below-ring": "fksy",
    "stalk-color-above-ring": "bcegnopwy",
    "stalk-color-below-ring": "bcegnopwy",
    "veil-type": "p",
    "veil-color": "nowy",
    "ring-number": "not",
    "ring-type": "eflnp",
    "spore-print-color": "bhknoruwy",
    "population": "acnsvy",
    "habitat": "dglmpuw",
}

_CLIMATE_CLASSES = ("crashed", "succeeded")
_CLIMATE_COUNTS = [46, 494]
_CLIMATE_SHARE = 0.259  # 140 of the 540 rows, 400 to train


def load_dna(folder: Path, _split: Split) -> Dataset:
    """Load the Statlog version of the splice junctions, 2000 rows to train and 1186 to test.

    Args:
        folder: Holds `DNA_FILES`, in LIBSVM's format.
        _split: Not used: the split is part of the data.

    Returns:
        The data; x is (n, 180), 0 or 1: three bits for each of 60 bases (T is 000).
    """
    paths = find_files(folder, DNA_FILES)
    parts = []
    for name in DNA_FILES:
        x, y = load_svmlight_file(BytesIO(read_bytes(paths[name])), n_features=len(_DNA_FEATURES), zero_based=False)
        parts.append((x.toarray(), y.astype(np.int64) - 1))
    return _dna(*parts)


def dna_from_openml(table: Download, _split: Split) -> Dataset:
    """The Statlog version, whose first 2000 rows are the training part; as `load_dna`.

    Raises:
        ContentError: It is another table, or its rows are in another order.
    """
    train, test = (sum(counts) for counts in _DNA_COUNTS)
    table.require(train + test, [len(_DNA_FEATURES)])
    x, y = table.numbers(), np.unique(table.target, return_inverse=True)[1]
    if not np.isin(x, (0, 1)).all():
        raise ContentError("features that are not 0 or 1")
    for rows, expected in zip((y[:train], y[train:]), _DNA_COUNTS, strict=True):
        _require_counts(rows, expected)
    return _dna((x[:train], y[:train]), (x[train:], y[train:]))


def load_mushroom(folder: Path, split: Split) -> Dataset:
    """Load the mushrooms, 8124 rows, a quarter of them to test unless ``split`` says otherwise.

    Args:
        folder: Holds `MUSHROOM_FILE`, commas between letters.
        split: The stratified split.

    Returns:
        The data; x is (n, 117), 0 or 1: one-hot, "?" (missing) being a value of its own.
    """
    content = read_bytes(find_files(folder, [MUSHROOM_FILE])[MUSHROOM_FILE]).decode("ascii")
    cells = np.array([line.split(",") for line in content.split()], dtype=object)
    return _mushroom(cells[:, 1:], cells[:, 0], split)


def mushroom_from_openml(table: Download, split: Split) -> Dataset:
    """As `load_mushroom`.

    Raises:
        ContentError: It is another table.
    """
    table.require(sum(_MUSHROOM_COUNTS), [len(_MUSHROOM_CODES)])
    return _mushroom(table.text(missing="?"), table.target, split)


def load_climate(folder: Path, split: Split) -> Dataset:
    """Load the climate model's crashes, 400 rows to train and 140 to test unless ``split`` says otherwise.

    Args:
        folder: Holds `CLIMATE_FILE`, blanks between columns, names in the first line.
        split: The stratified split.

    Returns:
        The data; x is (n, 18), standardised; the numbers of study and run are left out.
    """
    lines = read_bytes(find_files(folder, [CLIMATE_FILE])[CLIMATE_FILE]).decode("ascii").splitlines()
    table = np.loadtxt(lines[1:], dtype=np.float64)
    return _climate(table[:, 2:-1], table[:, -1].astype(np.int64), tuple(lines[0].split()[2:-1]), split)


def climate_from_openml(table: Download, split: Split) -> Dataset:
    """As `load_climate`; the two columns before the 18 features are left out if they are study and run.

    Raises:
        ContentError: It is another table.
    """
    table.require(sum(_CLIMATE_COUNTS), [18, 20])
    x, surplus = table.numbers(), table.data.shape[1] - 18
    if surplus and not np.array_equal(x.max(axis=0)[:surplus], [3, 180]):
        raise ContentError("20 features of which the first two are not the numbers of study and run")
    if x[:, surplus:].min() < 0 or x[:, surplus:].max() > 1:
        raise ContentError("features outside of 0 to 1")
    names, y = np.unique(table.target, return_inverse=True)
    if len(names) == 2 and (y == 0).sum() > (y == 1).sum():  # whatever they are called, crashes are the rarer
        y = 1 - y
    return _climate(x[:, surplus:], y, tuple(table.names[surplus:]), split)


def _dna(train: tuple[NDArray[Any], NDArray[Any]], test: tuple[NDArray[Any], NDArray[Any]]) -> Dataset:
    return _dataset("dna", train, test, _DNA_CLASSES, _DNA_FEATURES)


def _mushroom(cells: NDArray[np.object_], letters: NDArray[Any], split: Split) -> Dataset:
    encoder = OneHotEncoder(
        categories=[np.array(list(codes), dtype=object) for codes in _MUSHROOM_CODES.values()],
        sparse_output=False,
        dtype=np.float32,
    )
    try:
        x = encoder.fit_transform(cells)  # learns nothing: the categories are given
    except ValueError as error:
        raise ContentError(f"values that the mushrooms do not have ({error})") from error
    y = np.unique(letters.astype(str), return_inverse=True)[1]
    _require_counts(y, _MUSHROOM_COUNTS)
    features = tuple(f"{name}={code}" for name, codes in _MUSHROOM_CODES.items() for code in codes)
    train, test = split.rows(y, _MUSHROOM_CLASSES)
    return _dataset("mushroom", (x[train], y[train]), (x[test], y[test]), _MUSHROOM_CLASSES, features)


def _climate(x: NDArray[np.float64], y: NDArray[np.int64], features: tuple[str, ...], split: Split) -> Dataset:
    _require_counts(y, _CLIMATE_COUNTS)
    train, test = split.rows(y, _CLIMATE_CLASSES, default=_CLIMATE_SHARE)
    x_train, x_test = standardise(x[train], x[test], features)
    return _dataset("climate", (x_train, y[train]), (x_test, y[test]), _CLIMATE_CLASSES, features)


def _require_counts(y: NDArray[np.int64], expected: list[int]) -> None:
    counts = np.bincount(y).tolist()
    if counts != expected:
        raise ContentError(f"{counts} rows of the classes, expected {expected} (in this order)")


def _dataset(
    name: str,
    train: tuple[NDArray[Any], NDArray[Any]],
    test: tuple[NDArray[Any], NDArray[Any]],
    classes: tuple[str, ...],
    features: tuple[str, ...],
) -> Dataset:
    (x_train, y_train), (x_test, y_test) = train, test
    return Dataset(
        name=name,
        task="classification",
        x_train=torch.from_numpy(x_train.astype(np.float32)),
        y_train=torch.from_numpy(y_train.astype(np.int64)),
        x_test=torch.from_numpy(x_test.astype(np.float32)),
        y_test=torch.from_numpy(y_test.astype(np.int64)),
        classes=classes,
        features=features,
    )
