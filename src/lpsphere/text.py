"""Tables as text. Pure functions of strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["cell", "markdown", "table"]


def cell(value: float | None, form: str) -> str:
    """A number in a format such as ".3f"; a dash for None and NaN."""
    return "-" if value is None or value != value else format(value, form)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns wide enough for their cells: the first to the left, the others, which hold numbers, to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(len(text) for text in column) for column in columns]
    lines = [
        [
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in (header, *rows)
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table of rows with the same keys, which are its header; ends with a newline."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
