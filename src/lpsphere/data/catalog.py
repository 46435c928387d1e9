"""Find the data that a name or a path stands for."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from lpsphere.data.benchmarks import BENCHMARKS, at_folder
from lpsphere.data.dataset import TEST_FRACTION, Dataset, Split, check_fraction
from lpsphere.data.embedded import EMBEDDED, load_embedded
from lpsphere.data.files import ENVIRONMENT
from lpsphere.data.idx import load_idx
from lpsphere.data.tables import MISSING_OPTIONS, load_csv

TASKS = ("classification", "regression")
"""What a data set can be for."""


def load(
    source: str | Path = "digits",
    *,
    label_column: str | None = None,
    task: str = "classification",
    missing: str = "error",
    test_fraction: float | None = None,
    split_seed: int = 0,
    data_dir: Path | None = None,
) -> Dataset:
    """Load data and split it into a training and a test part.

    Everything that is learnt from data (scaling, medians, categories) is learnt from the training part.

    A name is looked up in ``data_dir``, in the working directory and in the folder that the environment
    variable ``LPSPHERE_DATA`` names, in this order. The files of ``"dna"``, ``"mushroom"``, ``"climate"``,
    ``"mnist"`` and ``"fashion-mnist"`` must be the published ones (SHA-256). A known data set that is in none
    of these places is downloaded from OpenML into scikit-learn's cache, all but ``"tiny-imagenet"``, which
    OpenML does not have.

    Args:
        source: ``"digits"``, ``"breast_cancer"`` or ``"wine"``, which need no files; ``"dna"``, ``"mushroom"``,
            ``"climate"``, ``"mnist"``, ``"fashion-mnist"``, ``"cifar-10"`` or ``"tiny-imagenet"``, a folder of
            the publisher's files; the path of a ``.csv`` or ``.csv.gz`` file with a header row; or a folder of
            IDX images. Paths and folders of your own are looked up in the same places.
        label_column: The column to predict; CSV only, and needed there.
        task: ``"classification"`` or (CSV only) ``"regression"``.
        missing: CSV only: ``"error"``, ``"drop"`` (rows) or ``"impute"`` (the training median; a category
            of its own for a column that is not numeric).
        test_fraction: Share of the rows for testing; None: 0.25, for ``"climate"`` 140 of its 540 rows. Images
            and ``"dna"`` bring their own test part.
        split_seed: Seed of the (stratified) split; independent of the seed of training.
        data_dir: Folder of data sets.

    Returns:
        The data, scaled.

    Raises:
        ValueError: An argument is not allowed, or the data cannot be used as they are; the message says
            what to do.
        FileNotFoundError: A folder lacks files, or a known data set can be had from nowhere; the message says
            which files to put where.
    """
    if task not in TASKS:
        raise ValueError(f"--task {task!r}: allowed are {', '.join(TASKS)}")
    if missing not in MISSING_OPTIONS:
        raise ValueError(f"--missing {missing!r}: allowed are {', '.join(MISSING_OPTIONS)}")
    fraction = TEST_FRACTION if test_fraction is None else test_fraction
    check_fraction(fraction, "test_fraction")
    name, places = str(source), _places(data_dir)
    path = None if name in EMBEDDED or name in BENCHMARKS else _find(source, places)
    if path is not None and path.is_file():
        return load_csv(
            path,
            label_column=label_column,
            task=task,
            missing=missing,
            test_fraction=fraction,
            split_seed=split_seed,
        )
    _refuse_table_options(name, label_column, task)
    if name in EMBEDDED:
        return load_embedded(name, fraction, split_seed)
    return _load_folder(name, path, places, Split(test_fraction, split_seed))


def _load_folder(name: str, path: Path | None, places: Sequence[Path], split: Split) -> Dataset:
    """A known data set (``path`` None: by its name), or a folder of IDX images."""
    if path is None:
        known = BENCHMARKS[name]
        folder = known.find(places)
        return known.fetch(split, places) if folder is None else known.load(folder, split)
    benchmark = at_folder(path)
    return load_idx(path) if benchmark is None else benchmark.load(path, split)


def _refuse_table_options(name: str, label_column: str | None, task: str) -> None:
    if label_column is not None:
        raise ValueError(
            f"--label-column {label_column!r} with --data {name!r}: only CSV files have a label "
            "column to choose; leave --label-column out"
        )
    if task != "classification":
        raise ValueError(
            f"--task {task} with --data {name!r}: this is a classification data set; leave --task "
            "out, or give a CSV file"
        )


def _places(data_dir: Path | None) -> list[Path]:
    """Where files and folders are looked up, in this order."""
    return [Path(place) for place in (data_dir, ".", os.environ.get(ENVIRONMENT)) if place]


def _find(source: str | Path, places: Sequence[Path]) -> Path:
    """The CSV file or the folder that ``source`` stands for, or a ValueError that says what is allowed."""
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
    names = (*EMBEDDED, *BENCHMARKS)
    close = difflib.get_close_matches(str(source).lower().replace("_", "-"), names, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"--data {str(source)!r} is no data set, file or folder (searched in "
        f"{', '.join(repr(str(place)) for place in places)}).{guess} Allowed are: {', '.join(names)}; the path "
        "of a .csv or .csv.gz file; the path of a folder of IDX images, or its name under --data-dir or the "
        f"folder in the environment variable {ENVIRONMENT}. Give one of these, or set --data-dir"
    )
