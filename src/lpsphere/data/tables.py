"""CSV tables: numbers standardised, everything else one-hot coded, nothing learnt from the test part."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from lpsphere.data.dataset import Dataset, listing, split_rows, standardise
from lpsphere.data.table_file import MISSING_CELLS, Table, number, read_table

MISSING_OPTIONS = ("error", "drop", "impute")
"""What can be done about missing values."""

MISSING_CATEGORY = "(missing)"
"""The category of a missing value in a column that is not numeric."""

_MAX_CELLS = 500_000_000  # of the coded table: 2 GB of float32
_MANY = 20  # distinct values from which "more than half of the rows differ" says something


@dataclass(frozen=True)
class _Columns:
    """The features of a table before coding: numbers (n, k) with NaN where missing, and text (n, m)."""

    numeric: list[str]
    numbers: NDArray[np.float64]
    categorical: list[str]
    text: NDArray[np.object_]


def load_csv(
    path: Path,
    *,
    label_column: str | None,
    task: str,
    missing: str,
    test_fraction: float,
    split_seed: int,
) -> Dataset:
    """Load a CSV file with a header row.

    A column of numbers is standardised; a column with any other value is one-hot coded (columns named
    ``col=value``, 0 or 1, all 0 for a value that only the test part has). Numeric columns come first.

    Args:
        path: The file, ``.csv`` or ``.csv.gz``.
        label_column: The column to predict.
        task: ``"classification"`` or ``"regression"``.
        missing: ``"error"``, ``"drop"`` (rows) or ``"impute"`` (training median, or a category).
        test_fraction: Share of the rows for testing.
        split_seed: Seed of the split, stratified for classification.

    Returns:
        The data; x is (n, features).

    Raises:
        ValueError: The table cannot be used as it is; the message says what to do.
    """
    table = read_table(path)
    label = table.find(label_column)
    if len(table.names) < 2:
        raise ValueError(
            f"{path}: no columns beside the label {table.names[label]!r} (separated by {table.delimiter}): "
            "features are needed; separators that are recognised are comma, semicolon and tab"
        )
    table = _treat_missing(table, label, missing)
    targets, classes = _quantities(table, label) if task == "regression" else _classes(table, label)
    columns = _parse_features(table, label)
    train, test = split_rows(targets, classes, test_fraction, split_seed)
    x_train, x_test, features = _encode(columns, train, test, path)
    mean, std = 0.0, 1.0
    if task == "regression":
        targets, mean, std = _scale_targets(targets, train, table.names[label])
    y = torch.from_numpy(targets)
    return Dataset(
        name=Path(path.name.removesuffix(".gz")).stem,
        task=task,
        x_train=torch.from_numpy(x_train),
        y_train=y[torch.from_numpy(train)],
        x_test=torch.from_numpy(x_test),
        y_test=y[torch.from_numpy(test)],
        classes=classes,
        features=features,
        target_mean=mean,
        target_std=std,
    )


def _treat_missing(table: Table, label: int, missing: str) -> Table:
    """Drop rows, or refuse missing values, as asked; imputation comes after the split."""
    if missing == "drop":
        complete = [row for row, cells in enumerate(table.rows) if None not in cells]
        if not complete:
            raise ValueError(
                f"{table.path}: --missing drop leaves no rows, each of the {len(table.rows)} lacks a value: "
                "use --missing impute, or remove columns"
            )
        return table.keep(complete)
    counts = [sum(cell is None for cell in table.column(index)) for index in range(len(table.names))]
    total = len(table.rows)
    if counts[label]:
        raise ValueError(
            f"{table.path}: {counts[label]} of {total} rows lack the label {table.names[label]!r}, first in "
            f"line {table.lines[table.column(label).index(None)]}: fill them in, or use --missing drop to "
            "leave these rows out"
        )
    lacking = [f"{name!r} ({count})" for name, count in zip(table.names, counts, strict=True) if count]
    if lacking and missing == "error":
        spellings = ", ".join(sorted(repr(cell) for cell in MISSING_CELLS))
        raise ValueError(
            f"{table.path}: missing values ({spellings}) in {', '.join(lacking)}, of {total} rows: use "
            "--missing drop (leave these rows out) or --missing impute (training median; a category of its "
            "own where the column is not numeric)"
        )
    return table


def _quantities(table: Table, label: int) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Real targets, unscaled."""
    values, stranger = _as_numbers(table, label)
    if values is None:
        raise ValueError(
            f"{table.path}: --task regression needs numbers in the label column {table.names[label]!r}, but "
            f"it has {stranger}: correct it, or use --task classification"
        )
    return values, ()


def _scale_targets(
    targets: NDArray[np.float64], train: NDArray[np.int64], name: str
) -> tuple[NDArray[np.float32], float, float]:
    """Targets standardised by the training rows, in float32, with the mean and the deviation."""
    if targets[train].min() == targets[train].max():
        raise ValueError(
            f"label column {name!r} is {targets[train[0]]:g} in every training row: regression needs a "
            "target that varies; choose another --label-column"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # reported below
        mean, std = float(targets[train].mean()), float(targets[train].std())
        scaled = ((targets - mean) / std).astype(np.float32)
    if not np.isfinite(scaled).all():
        raise ValueError(
            f"label column {name!r} has values too large for float32 after standardisation (training mean "
            f"{mean:g}, standard deviation {std:g}): give it in another unit, or as logarithms"
        )
    return scaled, mean, std


def _classes(table: Table, label: int) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Class indices and names, in the order of numbers if all are numbers, of text otherwise."""
    name, values = table.names[label], _as_numbers(table, label)[0]
    cells = [str(cell) for cell in table.column(label)]
    if values is not None:  # 1, 1.0 and 1e0 are one class
        cells = [str(int(v)) if v.is_integer() else repr(v) for v in values.tolist()]
    classes = sorted(set(cells), key=float if values is not None else None)
    if len(classes) < 2:
        raise ValueError(
            f"{table.path}: label column {name!r} has only one class, {classes[0]!r}, in {len(cells)} rows: "
            "classification needs at least 2"
        )
    quantity = values is not None and not all(v.is_integer() for v in values.tolist())
    if quantity and len(classes) > max(_MANY, len(cells) / 2):
        raise ValueError(
            f"{table.path}: label column {name!r} has {len(classes)} different numbers in {len(cells)} rows, "
            f"such as {cells[0]}, which looks like a quantity: use --task regression, or another "
            "--label-column"
        )
    names, index, counts = np.unique(np.array(cells, dtype=object), return_inverse=True, return_counts=True)
    rare = [str(rarity) for rarity, count in zip(names, counts, strict=True) if count < 2]
    if rare:
        hint = " (for a quantity: use --task regression)" if values is not None else ""
        raise ValueError(
            f"{table.path}: fewer than 2 rows of class {listing(rare)} in label column {name!r}: add rows, "
            f"or merge or remove these classes{hint}"
        )
    position = {label_name: place for place, label_name in enumerate(classes)}
    order = np.array([position[str(label_name)] for label_name in names], dtype=np.int64)
    return order[index], tuple(classes)


def _as_numbers(table: Table, column: int) -> tuple[NDArray[np.float64] | None, str]:
    """A column as numbers (NaN where missing), or None with a description of the first cell that is none.

    Raises:
        ValueError: The column is numeric but has an infinite value, or it has no value at all.
    """
    name, cells = table.names[column], table.column(column)
    values = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        value = np.nan if cell is None else number(cell)
        if value is None:
            return None, f"{cell!r} in line {table.lines[row]}"
        values[row] = value
    infinite = np.flatnonzero(np.isinf(values))
    if infinite.size:
        row = int(infinite[0])
        raise ValueError(
            f"{table.path}: column {name!r} has {infinite.size} infinite value(s), the first, "
            f"{cells[row]!r}, in line {table.lines[row]}: correct them, or leave the cells empty and use "
            "--missing drop or --missing impute"
        )
    if np.isnan(values).all():
        raise ValueError(f"{table.path}: column {name!r} has no value in any row: remove it")
    return values, ""


def _parse_features(table: Table, label: int) -> _Columns:
    numeric: list[str] = []
    numbers: list[NDArray[np.float64]] = []
    categorical: list[str] = []
    text: list[list[str]] = []
    for column in (column for column in range(len(table.names)) if column != label):
        values, stranger = _as_numbers(table, column)
        if values is not None:
            numeric.append(table.names[column])
            numbers.append(values)
            continue
        cells = [MISSING_CATEGORY if cell is None else cell for cell in table.column(column)]
        _warn_of_many(table, table.names[column], len(set(cells)), stranger)
        categorical.append(table.names[column])
        text.append(cells)
    rows = len(table.rows)
    width = len(numeric) + sum(len(set(cells)) for cells in text)
    if rows * width > _MAX_CELLS:
        raise ValueError(
            f"{table.path}: one-hot coding makes {width} columns of {rows} rows, more than fits "
            f"({_MAX_CELLS} cells): remove or group columns that are not numeric: {listing(categorical)}"
        )
    return _Columns(
        numeric,
        np.array(numbers, dtype=np.float64).reshape(len(numeric), rows).T,
        categorical,
        np.array(text, dtype=object).reshape(len(categorical), rows).T,
    )


def _warn_of_many(table: Table, name: str, distinct: int, stranger: str) -> None:
    if distinct > max(_MANY, len(table.rows) / 2):
        warnings.warn(
            f"{table.path}: column {name!r} is not numeric ({stranger}) and has {distinct} different values "
            f"in {len(table.rows)} rows, each of which becomes a one-hot column that is almost always 0: if "
            "it is meant as a number, correct that cell; if it is an identifier, remove the column",
            stacklevel=5,  # the caller of lpsphere.data.load
        )


def _encode(
    columns: _Columns, train: NDArray[np.int64], test: NDArray[np.int64], path: Path
) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[str, ...]]:
    """Impute, standardise and one-hot code; what is learnt is learnt from the training rows."""
    blocks: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    features = list(columns.numeric)
    if columns.numeric:
        fit, held = columns.numbers[train], columns.numbers[test]
        empty = np.flatnonzero(np.isnan(fit).all(axis=0))
        if empty.size:
            raise ValueError(
                f"{path}: no training row has a value in {listing([columns.numeric[i] for i in empty])}, so "
                "there is no median to impute: remove the column, or use --missing drop"
            )
        imputer = SimpleImputer(strategy="median").fit(fit)
        blocks.append(standardise(imputer.transform(fit), imputer.transform(held), columns.numeric))
    if columns.categorical:
        encoder = OneHotEncoder(
            handle_unknown="ignore",
            sparse_output=False,
            dtype=np.float32,
            feature_name_combiner=lambda column, value: f"{column}={value}",
        ).fit(columns.text[train])
        blocks.append((encoder.transform(columns.text[train]), encoder.transform(columns.text[test])))
        features += encoder.get_feature_names_out(columns.categorical).tolist()
    x_train, x_test = (np.hstack(part) for part in zip(*blocks, strict=True))
    return x_train, x_test, tuple(features)
