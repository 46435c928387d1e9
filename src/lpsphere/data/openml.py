"""Data sets from OpenML, through scikit-learn and its cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import fetch_openml

from lpsphere.data.files import ContentError

Fetch = Callable[..., Any]
"""`sklearn.datasets.fetch_openml`, or what takes its place."""


class DownloadError(OSError):
    """OpenML could not be reached, or gave something that cannot be read."""


@dataclass(frozen=True)
class Download:
    """What OpenML gives, as scikit-learn hands it over.

    Attributes:
        data: (n, features) numbers; a nominal value is an index into its column's categories, NaN where missing.
        target: (n,) class names.
        names: Name of each column of ``data``.
        categories: Values of each nominal column.
    """

    data: NDArray[np.float64]
    target: NDArray[np.str_]
    names: Sequence[str]
    categories: Mapping[str, Sequence[str]]

    def require(self, rows: int, columns: Sequence[int]) -> None:
        """Raise ContentError unless the table has these rows, one of these numbers of columns, and all labels."""
        if self.data.ndim != 2 or len(self.data) != rows or self.data.shape[1] not in columns:
            shape = " x ".join(map(str, self.data.shape))
            raise ContentError(f"a table of {shape} features, expected {rows} x {' or '.join(map(str, columns))}")
        if len(self.target) != rows:
            raise ContentError(f"{len(self.target)} labels for {rows} rows")

    def numbers(self) -> NDArray[np.float64]:
        """The table with nominal values read as the numbers that they spell.

        Raises:
            ContentError: A category is no number, or a value is missing.
        """
        values = self.data.astype(np.float64, copy=bool(self.categories))
        try:
            for column, name in enumerate(self.names):
                if name in self.categories:
                    values[:, column] = self._decode(column, np.array(self.categories[name], dtype=np.float64), np.nan)
        except ValueError as error:
            raise ContentError(f"a column that is not numeric ({error})") from error
        if not np.isfinite(values).all():
            raise ContentError("missing or infinite values")
        return values

    def text(self, missing: str) -> NDArray[np.object_]:
        """The table with the names of its nominal values.

        Args:
            missing: What stands for a missing value.

        Raises:
            ContentError: A column is not nominal.
        """
        numeric = [name for name in self.names if name not in self.categories]
        if numeric:
            raise ContentError(f"{numeric[0]!r} is not nominal")
        columns: list[NDArray[np.object_]] = [
            self._decode(column, np.array(self.categories[name], dtype=object), missing)
            for column, name in enumerate(self.names)
        ]
        return np.stack(columns, axis=1)

    def pixels(self) -> NDArray[np.uint8]:
        """The table as bytes.

        Raises:
            ContentError: A value is no whole number from 0 to 255.
        """
        values = self.numbers()
        with np.errstate(invalid="ignore"):  # found by the comparison
            pixels = values.astype(np.uint8)
        if not np.array_equal(pixels, values):
            raise ContentError("pixels that are not whole numbers from 0 to 255")
        return pixels

    def _decode(self, column: int, categories: NDArray[Any], missing: object) -> NDArray[Any]:
        index = self.data[:, column]
        lookup = np.append(categories, np.array([missing], dtype=categories.dtype))
        return lookup[np.where(np.isnan(index), len(categories), index).astype(np.int64)]


def download(data_id: int, fetch: Fetch | None = None) -> Download:
    """Get a data set of OpenML, from scikit-learn's cache if it is there.

    Args:
        data_id: Its number on OpenML.
        fetch: In place of `sklearn.datasets.fetch_openml`.

    Returns:
        The table; nothing is checked yet.

    Raises:
        DownloadError: It cannot be had.
    """
    try:  # this parser needs no pandas
        bunch = (fetch or fetch_openml)(data_id=data_id, as_frame=False, parser="liac-arff", n_retries=1)
    except (OSError, HTTPException, ValueError) as error:  # ValueError: refused by OpenML, or a wrong checksum
        raise DownloadError(f"{type(error).__name__}: {error}") from error
    return Download(
        np.asarray(bunch.data), np.asarray(bunch.target).astype(str), list(bunch.feature_names), dict(bunch.categories)
    )
