"""Read a CSV file into columns of text, refusing whatever is not a clean table."""

from __future__ import annotations

import csv
import difflib
import io
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lpsphere.data.dataset import listing
from lpsphere.data.files import read_bytes

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
"""Separators that are recognised, and their names."""

MISSING_CELLS = frozenset({"", "?", "NA", "NaN", "nan", "null"})
"""Cells (blanks stripped) that stand for a missing value, beside every other spelling of nan."""


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        path: Where it was read.
        delimiter: Name of the separator that was recognised.
        names: Column names.
        rows: Cells, row by row; None where missing.
        lines: Line number of each row in the file (the last line of a row that spans several).
    """

    path: Path
    delimiter: str
    names: list[str]
    rows: list[list[str | None]]
    lines: list[int]

    def column(self, index: int) -> list[str | None]:
        """Cells of one column."""
        return [row[index] for row in self.rows]

    def keep(self, rows: list[int]) -> Table:
        """The table with only these rows."""
        chosen = [self.rows[row] for row in rows], [self.lines[row] for row in rows]
        return Table(self.path, self.delimiter, self.names, *chosen)

    def find(self, label_column: str | None) -> int:
        """Index of the label column.

        Raises:
            ValueError: None was given, or the table has no such column.
        """
        columns = f"columns of {self.path} (separated by {self.delimiter}): {listing(self.names)}"
        if label_column is None:
            raise ValueError(f"pass --label-column, the column to predict; {columns}")
        if label_column not in self.names:
            folded = {name.casefold(): name for name in self.names}
            close = difflib.get_close_matches(label_column.strip().casefold(), folded, n=1)
            guess = f" Did you mean {folded[close[0]]!r}?" if close else ""
            raise ValueError(f"--label-column {label_column!r} is not in the table.{guess} The {columns}")
        return self.names.index(label_column)


def read_table(path: Path) -> Table:
    """Read a CSV file with a header row; the separator is recognised among comma, semicolon and tab.

    Args:
        path: The file: UTF-8 (a byte order mark is tolerated), gzip-compressed or not.

    Returns:
        The table, blanks around cells stripped, blank lines left out.

    Raises:
        ValueError: The file is not UTF-8, is empty, has no rows, rows of unequal length, an unclosed
            quote, or a header with empty or repeated names or only numbers.
    """
    text = _read_text(path)
    delimiter = _sniff(text)
    named = DELIMITERS[delimiter]
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter, strict=True)
    names: list[str] = []
    rows: list[list[str | None]] = []
    lines: list[int] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells[:1]) and len(cells) < 2:
                continue  # a blank line
            if not names:
                names = [cell.strip() for cell in cells]
                continue
            if len(cells) != len(names):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, but the header has {len(names)} "
                    f"(separated by {named}): repair this line; a cell that contains the separator "
                    "must be in double quotes"
                )
            rows.append([_cell(cell) for cell in cells])
            lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num} is not valid CSV ({error}; separated by {named}): check its double quotes"
        ) from error
    _check_header(names, path, named)
    if not rows:
        raise ValueError(f"{path} has a header but no rows of data")
    return Table(path, named, names, rows, lines)


def number(cell: str) -> float | None:
    """The number that a cell spells (±inf included), or None."""
    try:
        return None if "_" in cell else float(cell)  # Python alone reads 1_000 as a number
    except ValueError:
        return None


def _cell(text: str) -> str | None:
    text = text.strip()
    return None if text in MISSING_CELLS or text.lstrip("+-").lower() == "nan" else text


def _read_text(path: Path) -> str:
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}): save it again as CSV in UTF-8") from error
    if not text.strip():
        raise ValueError(f"{path} is empty: a header row and rows of data are needed")
    return text


def _sniff(text: str) -> str:
    """The separator that cuts the first lines into most cells, preferring one that cuts them all alike."""

    def fit(delimiter: str) -> tuple[bool, int]:
        try:
            reader = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter)
            widths = [len(row) for row in islice(reader, 20) if row]
        except csv.Error:
            return False, 0
        return len(set(widths)) == 1 and widths[0] > 1, widths[0]

    return max(DELIMITERS, key=fit)


def _check_header(names: list[str], path: Path, delimiter: str) -> None:
    count = len(names)
    if "" in names:
        raise ValueError(
            f"{path}: column {names.index('') + 1} of {count} (separated by {delimiter}) has no name in the "
            "header: name it, or remove it (row numbers are not a feature)"
        )
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise ValueError(
            f"{path}: repeated column names {listing(repeated)}: give each column its own name; if the "
            "first line is data, add a header row"
        )
    indices = [[str(i) for i in range(start, start + count)] for start in (0, 1)]
    if names not in indices and all(number(name) is not None for name in names):
        raise ValueError(f"{path}: the first line, {listing(names, 5)}, looks like data: add a header row")
