"""Rows as text: CSV, TSV, JSON Lines, and the classic two columns."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from musiq.errors import MusiqError
from musiq.files import atomic_write
from musiq.scoring import Row
from musiq.spec import share_columns

COUNTS = ("frames", "frame")
"""Of the numbers that videos have, those that are whole."""

WITHOUT_SIZE = "rows without the column size, as earlier versions wrote them"


class TextFormat:
    """Rows as lines of bytes; subclasses say how a line looks.

    A path keeps its bytes, whatever they are; scores keep all digits of their float32. `outputs` is K where rows have
    the shares of K > 1 ratings, else 1; `numbers` are the columns besides that videos have, or their frames.
    """

    def __init__(self, outputs: int = 1, numbers: Sequence[str] = ()) -> None:
        self.outputs, self.numbers = outputs, tuple(numbers)

    def head(self) -> bytes:
        """What stands before the first row."""
        return b""

    def line(self, row: Row) -> bytes:
        raise NotImplementedError


class AppendableFormat(TextFormat):
    """A format whose file can go on where it ends, so that its rows gather as they are written in the end."""

    quoted = False
    """Whether a cell in quotes may hold line feeds."""

    @property
    def gathering(self) -> AppendableFormat:
        return self

    def finish(self, part: Path, path: Path) -> None:
        os.replace(part, path)

    def reopen(self, path: Path, part: Path) -> None:
        shutil.copyfile(path, part)

    def row(self, line: bytes) -> Row | None:
        """The row that `line` wrote, None for bytes that are none."""
        raise NotImplementedError

    def read(self, file: BinaryIO) -> Iterator[tuple[int, Row]]:
        """The whole rows of a file, each with the position after it; ends before a torn one.

        Raises MusiqError for a file with other columns.
        """
        lines, position = _whole_lines(file, self.quoted), 0
        if self.head() and (first := next(lines, None)) is not None:
            if first != self.head():
                raise MusiqError(self._other_columns(first))
            position = len(first)
        for line in lines:
            row = self.row(line)
            if row is None and position == 0:
                raise MusiqError(self._other_columns(line))
            if row is None:
                return
            position += len(line)
            yield position, row

    def _other_columns(self, first: bytes) -> str:
        """What to say of a file that begins with a line of other columns."""
        return WITHOUT_SIZE if self.lacks_size(first) else "other columns than this run would write"

    def lacks_size(self, first: bytes) -> bool:
        """Whether a file's first line is as this format was before rows had a size."""
        raise NotImplementedError


class Csv(AppendableFormat):
    """`path,score,size,fitted,error,model`, what videos have besides, and for K > 1 ratings `share_1` to `share_K`, under a
    head of these names."""

    delimiter = ","
    quoted = True

    def __init__(self, outputs: int = 1, numbers: Sequence[str] = ()) -> None:
        super().__init__(outputs, numbers)
        self.columns = ["path", "score", "size", "fitted", "error", "model", *numbers, *share_columns(outputs)]

    def head(self) -> bytes:
        return _delimited(self.columns, self.delimiter)

    def line(self, row: Row) -> bytes:
        texts = [row.size, row.fitted, row.error, row.model]
        numbers = [getattr(row, name) for name in self.numbers]
        cells = [row.path, _digits(row.score), *texts, *map(_digits, (*numbers, *(row.shares or ())))]
        return _delimited(cells + [""] * (len(self.columns) - len(cells)), self.delimiter)

    def lacks_size(self, first: bytes) -> bool:
        return first == _delimited([name for name in self.columns if name != "size"], self.delimiter)

    def row(self, line: bytes) -> Row | None:
        text = line.decode("utf-8", "surrogateescape").removesuffix("\n")
        try:
            cells = dict(zip(self.columns, next(csv.reader([text], delimiter=self.delimiter)), strict=True))
            shares = [_number(cells[name]) for name in share_columns(self.outputs)]
            score = _number(cells["score"])
            numbers = {name: _number(cells[name]) for name in self.numbers}
        except (ValueError, StopIteration, csv.Error):
            return None
        known = tuple(share for share in shares if share is not None)
        texts = (cells["fitted"], cells["error"], known or None, cells["model"], cells["size"])
        return Row(cells["path"], score, *texts, **with_counts(numbers))


class Tsv(Csv):
    """As Csv, with tabs between the cells."""

    delimiter = "\t"


class JsonLines(AppendableFormat):
    """A JSON object a line: path, score (null where there is none), size, fitted, error, model; what videos have besides;
    shares where there are some."""

    NAMES = ("path", "score", "size", "fitted", "error", "model")

    def line(self, row: Row) -> bytes:
        values = {name: getattr(row, name) for name in (*self.NAMES, *self.numbers)}
        return json.dumps(values | ({"shares": row.shares} if row.shares else {})).encode() + b"\n"

    def lacks_size(self, first: bytes) -> bool:
        try:
            return {*self.NAMES} - {*json.loads(first)} == {"size"}
        except (ValueError, TypeError):
            return False

    def row(self, line: bytes) -> Row | None:
        try:
            values = json.loads(line)
            shares = tuple(values["shares"]) if "shares" in values else None
            path, score, size, fitted, error, model = (values[name] for name in self.NAMES)
            return Row(path, score, fitted, error, shares, model, size, **{name: values[name] for name in self.numbers})
        except (ValueError, TypeError, KeyError):
            return None


class PathAndScore(TextFormat):
    """What scripts of published models write: `path<TAB>score` without a head, nan where there is no score.

    It does not tell which model a row is of, so rows gather as JSON Lines.
    """

    @property
    def gathering(self) -> AppendableFormat:
        return JsonLines(self.outputs, self.numbers)

    def line(self, row: Row) -> bytes:
        return _delimited([row.path, _digits(row.score) or "nan"], "\t")

    def finish(self, part: Path, path: Path) -> None:
        with atomic_write(path) as copy, copy.open("wb") as file:
            file.writelines(map(self.line, rows_of(part, self.gathering)))
        part.unlink()

    def reopen(self, path: Path, part: Path) -> None:
        raise MusiqError("rows that do not say which model they are of")


def with_counts(numbers: Mapping[str, float | None]) -> dict[str, Any]:
    """What videos have besides, as a Row has it: counts are whole."""
    return {name: int(value) if value is not None and name in COUNTS else value for name, value in numbers.items()}


def rows_of(part: Path, gathering: AppendableFormat) -> Iterable[Row]:
    """The rows that have gathered in a file."""
    with part.open("rb") as file:
        yield from (row for _, row in gathering.read(file))


def _delimited(cells: list[str], delimiter: str) -> bytes:
    """A row, with quotes round the cells that need them; the csv module would leave out those with a carriage return."""
    text = delimiter.join(
        _quoted(cell) if any(mark in cell for mark in (delimiter, *'"\r\n')) else cell for cell in cells
    )
    return text.encode("utf-8", "surrogateescape") + b"\n"


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


def _whole_lines(file: BinaryIO, quoted: bool) -> Iterator[bytes]:
    """Lines that end in a line feed; a quoted cell may hold some, so those count outside of quotes alone."""
    parts: list[bytes] = []
    quotes = 0
    for line in file:
        parts.append(line)
        quotes += line.count(b'"')
        if line.endswith(b"\n") and not (quoted and quotes % 2):
            yield b"".join(parts)
            parts, quotes = [], 0


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"  # 9 digits tell every float32 from its neighbours


def _number(cell: str) -> float | None:
    return float(cell) if cell else None
