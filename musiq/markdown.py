"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """A Markdown table, one line a row, without a newline at its end.

    Args:
        header: Titles of the columns.
        rows: Their cells; `|` and newlines are escaped, so that no text breaks the table.
        right: Indices of the columns that are aligned to the right, as numbers are.

    Returns:
        The lines, joined.
    """
    aligned = set(right)
    rule = [" ---: " if column in aligned else " --- " for column in range(len(header))]
    lines = [_line(header), "|" + "|".join(rule) + "|", *(_line(row) for row in rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.splitlines()).replace("|", "\\|") for cell in cells) + " |"
