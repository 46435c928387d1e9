"""Find the data that a name or a path stands for."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from lpsphere.data.dataset import Dataset, check_fraction
from lpsphere.data.embedded import EMBEDDED, load_embedded
from lpsphere.data.idx import load_idx
from lpsphere.data.tables import MISSING_OPTIONS, load_csv

ENVIRONMENT = "LPSPHERE_DATA"
"""Environment variable that names the folder of data sets."""

TASKS = ("classification", "regression")
"""What a data set can be for."""


def load(
    source: str | Path = "digits",
    *,
    label_column: str | None = None,
    task: str = "classification",
    missing: str = "error",
    test_fraction: float = 0.25,
    split_seed: int = 0,
    data_dir: Path | None = None,
) -> Dataset:
    """Load data and split it into a training and a test part.

    Everything that is learnt from data (scaling, medians, categories) is learnt from the training part.

    Args:
        source: ``"digits"``, ``"breast_cancer"`` or ``"wine"``; or the path of a ``.csv`` or ``.csv.gz``
            file with a header row; or a folder of IDX images, given as a path or as a name (``"mnist"``)
            that is looked up in ``data_dir``, in the working directory and in the folder that the
            environment variable ``LPSPHERE_DATA`` names, in this order.
        label_column: The column to predict; CSV only, and needed there.
        task: ``"classification"`` or (CSV only) ``"regression"``.
        missing: CSV only: ``"error"``, ``"drop"`` (rows) or ``"impute"`` (the training median; a category
            of its own for a column that is not numeric).
        test_fraction: Share of the rows for testing; IDX folders bring their own test part.
        split_seed: Seed of the (stratified) split; independent of the seed of training.
        data_dir: Folder of data sets.

    Returns:
        The data, scaled.

    Raises:
        ValueError: An argument is not allowed, or the data cannot be used as they are; the message says
            what to do.
        FileNotFoundError: A folder lacks IDX files.
    """
    if task not in TASKS:
        raise ValueError(f"--task {task!r}: allowed are {', '.join(TASKS)}")
    if missing not in MISSING_OPTIONS:
        raise ValueError(f"--missing {missing!r}: allowed are {', '.join(MISSING_OPTIONS)}")
    check_fraction(test_fraction, "test_fraction")
    path = None if str(source) in EMBEDDED else _find(source, data_dir)
    if path is not None and path.is_file():
        return load_csv(
            path,
            label_column=label_column,
            task=task,
            missing=missing,
            test_fraction=test_fraction,
            split_seed=split_seed,
        )
    if label_column is not None:
        raise ValueError(
            f"--label-column {label_column!r} with --data {str(source)!r}: only CSV files have a label "
            "column to choose; leave --label-column out"
        )
    if task != "classification":
        raise ValueError(
            f"--task {task} with --data {str(source)!r}: this is a classification data set; leave --task "
            "out, or give a CSV file"
        )
    return load_embedded(str(source), test_fraction, split_seed) if path is None else load_idx(path)


def _find(source: str | Path, data_dir: Path | None) -> Path:
    """The CSV file or the folder that ``source`` stands for, or a ValueError that says what is allowed."""
    places = [Path(place) for place in (data_dir, ".", os.environ.get(ENVIRONMENT)) if place]
    candidates = [place / Path(source).expanduser() for place in places] if str(source).strip() else []
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
        if candidate.is_file():
            if candidate.name.lower().endswith((".csv", ".csv.gz")):
                return candidate
            raise ValueError(
                f"--data {str(source)!r} is a file, but not .csv or .csv.gz: save it as CSV (separated by "
                "comma, semicolon or tab, with a header row), or point to a folder of IDX images"
            )
    close = difflib.get_close_matches(str(source), EMBEDDED, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"--data {str(source)!r} is no data set, file or folder (searched in "
        f"{', '.join(repr(str(place)) for place in places)}).{guess} Allowed are: {', '.join(EMBEDDED)}; the path "
        "of a .csv or .csv.gz file; the path of a folder of IDX images, or its name (such as 'mnist') "
        f"under --data-dir or the folder in the environment variable {ENVIRONMENT}. Give one of these, or "
        "set --data-dir"
    )
