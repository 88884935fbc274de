"""Reads tables of text (CSV) as spreadsheets and scripts write them, and refuses what could be read in two ways.

Commas, semicolons and tabs separate, told apart by the header or by a first line `sep=;`. A row has as many cells as the
header has names: a decimal comma between commas, a forgotten cell and a file that was cut short are found by that.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from musiq.errors import MusiqError

SEPARATORS = ",;\t"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
"""What of Python's numbers a table may hold: not 1_000, which is a slip, nor the digits of other scripts."""

DECIMAL_COMMA, DECIMAL_POINT = re.compile(r"\s*[+-]?\d+,\d+\s*"), re.compile(r"\s*[+-]?\d+\.\d+\s*")


@dataclass(frozen=True)
class Row:
    """One row below the header.

    Attributes:
        where: The file and the line, for people: "labels.csv, row 3".
        cells: Their text, as it stands in the file, by the columns' names.
        decimal_comma: Whether the file writes 3,51 for 3.51.
    """

    where: str
    cells: dict[str, str]
    decimal_comma: bool = False

    def number(self, column: str) -> float:
        """The finite number in a column. Raises MusiqError, with row and column, where there is none."""
        text = self.cells.get(column, "")
        found = number_in(text.replace(",", ".") if self.decimal_comma and DECIMAL_COMMA.fullmatch(text) else text)
        if found is None:
            hint = " with a decimal point" if DECIMAL_COMMA.fullmatch(text) else ""
            raise MusiqError(f"{self.where}: {column} is {text!r}; expected a number{hint}.")
        return found


@dataclass(frozen=True)
class Table:
    """A header and the rows below it.

    Attributes:
        path: The file.
        columns: The header's names, without spaces around them.
        rows: All that are not empty.
    """

    path: Path
    columns: list[str]
    rows: list[Row]


def read_table(path: Path) -> Table:
    """Read a CSV, TSV or semicolon-separated file with a header.

    Empty rows are read over, also those of separators alone, and so is Excel's first line `sep=;`. In files with
    semicolons numbers may have decimal commas, as Excel writes them where the comma is the decimal sign.

    Args:
        path: The file, UTF-8, or UTF-16 with a byte order mark.

    Raises:
        MusiqError: The file cannot be read or is no text, a quote is not closed, a cell is too long, or a row has more or
            fewer cells than the header has names; names the row.
    """
    text = decoded_text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    declared = re.fullmatch(r"sep=([,;\t])\s*", first, re.IGNORECASE)
    separator = declared[1] if declared else max(SEPARATORS, key=first.count)
    found = _rows_of_cells(path, text, separator)[1 if declared else 0 :]
    columns = [name.strip() for name in _without_empty_end(found[0][1])] if found else []
    for line, cells in found[1:]:
        if len(cells) < len(columns) or len(_without_empty_end(cells)) > len(columns):
            raise MusiqError(f"{path}, row {line}: {_miscounted(cells, columns, separator)}")
    comma = separator == ";" and _has_decimal_commas(cells for _, cells in found[1:])
    rows = (
        Row(f"{path}, row {line}", dict(zip(columns, cells, strict=False)), comma)  # beyond the columns all is empty
        for line, cells in found[1:]
    )
    return Table(path, columns, list(rows))


def _rows_of_cells(path: Path, text: str, separator: str) -> list[tuple[int, list[str]]]:
    """The rows that hold anything, each with the number of its (last) line."""
    lines = io.StringIO(text, newline="")  # ends of lines within quotes stay what they are
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        rows = [(reader.line_num, cells) for cells in reader]
    except csv.Error as problem:
        if "field limit" in str(problem):
            raise MusiqError(
                f"{path}, row {reader.line_num}: a cell has more than {csv.field_size_limit():,} characters, so this is "
                "no table of labels. Give a CSV with one line for each image; a quote that is never closed looks the same."
            ) from problem
        raise MusiqError(
            f"{path}, row {reader.line_num}: {problem}. A quoted cell must begin and end with a quote, and double those "
            "within."
        ) from problem
    return [(line, cells) for line, cells in rows if any(cell.strip() for cell in cells)]


def _without_empty_end(cells: list[str]) -> list[str]:
    """Without the empty cells after the last one that is not: spreadsheets write those of columns that once were."""
    count = max((number for number, cell in enumerate(cells, 1) if cell.strip()), default=0)
    return cells[:count]


def _miscounted(cells: list[str], columns: list[str], separator: str) -> str:
    """What is wrong with a row of fewer or more cells than there are columns, and what to do."""
    found = f"cells: {len(cells)}, columns: {len(columns)} ({', '.join(columns)})"
    if len(cells) < len(columns):
        return f"{found}. Write every cell, also an empty one; at its end the file may have been cut short."
    if separator == "," and any(DECIMAL_COMMA.fullmatch(f"{one},{other}") for one, other in pairwise(cells)):
        return f"{found}. Write numbers with decimal points, or separate cells by semicolons."
    return f"{found}. Put a cell that holds the separator in quotes."


def _has_decimal_commas(rows: Iterable[Sequence[str]]) -> bool:
    """Whether some cells are numbers with a decimal comma and none is one with a point."""
    cells = [cell for cells in rows for cell in cells]
    return any(map(DECIMAL_COMMA.fullmatch, cells)) and not any(map(DECIMAL_POINT.fullmatch, cells))


def decoded_text(path: Path) -> str:
    """A file's text as it is, without a byte order mark.

    Args:
        path: A file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        MusiqError: The file cannot be read or is no such text.
    """
    try:
        data = path.read_bytes()
        return data.decode("utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    except OSError as problem:
        raise MusiqError(
            f"Cannot read the labels {path}: {problem.strerror}. Give the path of a label file."
        ) from problem
    except UnicodeDecodeError as problem:
        raise MusiqError(
            f"{path} is no UTF-8 text; labels are a CSV with the columns image,mos and more. A spreadsheet saves it as "
            '"CSV UTF-8".'
        ) from problem


def number_in(text: str | None) -> float | None:
    """The finite number that a cell holds, None where it holds none."""
    text = (text or "").strip()
    value = float(text) if NUMBER.fullmatch(text) else math.inf
    return value if math.isfinite(value) else None
