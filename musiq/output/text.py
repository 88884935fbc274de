"""Rows as text: CSV, TSV, JSON Lines, the classic two columns; what each holds, and how it is read back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from musiq.errors import MusiqError
from musiq.scoring.row import Row
from musiq.spec import share_columns

FORMATS = ("csv", "tsv", "jsonl", "parquet", "txt")
MADE_AT_THE_END = ("parquet", "txt")
"""Parquet cannot be appended to, and two columns do not tell which model they are of: rows gather as JSON Lines first."""

DELIMITERS = {"csv": ",", "tsv": "\t", "txt": "\t"}


class Table:
    """How rows are written: `path,score,fitted,error,model` and, for K > 1 ratings, `share_1` to `share_K`.

    `labels` names the artifact of each `Row.model` in the file, so that it never mixes the scores of two unnoticed; where
    there is only one, all rows have it. A path keeps its bytes, whatever they are; scores keep all digits of their
    float32. "txt" is what scripts of published models write: `path<TAB>score` without a head, nan where there is none.
    """

    def __init__(self, kind: str, labels: Mapping[str, str], outputs: int = 1) -> None:
        self.kind, self.labels, self.outputs = kind, labels, outputs
        self.columns = ["path", "score", "fitted", "error", "model"]
        self.columns += share_columns(outputs)
        if kind == "txt":
            self.columns = ["path", "score"]
        self._failed = next(iter(labels.values())) if len(labels) == 1 else ""

    def gathering(self) -> Table:
        """How the rows are written while they gather: this table, or JSON Lines for what is made at the end."""
        return Table("jsonl", self.labels, self.outputs) if self.kind in MADE_AT_THE_END else self

    def head(self) -> bytes:
        return b"" if self.kind in ("jsonl", "txt") else self._line(self.columns)

    def line(self, row: Row) -> bytes:
        return self.text(self.record(row))

    def record(self, row: Row) -> dict[str, Any]:
        """A row as a JSON object; `shares` only where there are some."""
        model = self.labels.get(row.model, self._failed)
        record = {"path": row.path, "score": row.score, "fitted": row.fitted, "error": row.error, "model": model}
        return record | ({"shares": row.shares} if row.shares else {})

    def text(self, record: Mapping[str, Any]) -> bytes:
        if self.kind == "jsonl":
            return json.dumps(record).encode() + b"\n"
        if self.kind == "txt":
            return self._line([record["path"], _digits(record["score"]) or "nan"])
        cells = [record["path"], _digits(record["score"]), record["fitted"], record["error"], record["model"]]
        cells += map(_digits, record.get("shares", ()))
        return self._line(cells + [""] * (len(self.columns) - len(cells)))

    def _line(self, cells: list[str]) -> bytes:
        text = io.StringIO()
        csv.writer(text, delimiter=DELIMITERS[self.kind], lineterminator="\n").writerow(cells)
        return text.getvalue().encode("utf-8", "surrogateescape")

    def read(self, file: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
        """The whole records of a CSV, TSV or JSON Lines file, each with the position after it; ends before a torn one.

        Raises MusiqError for a file with other columns.
        """
        lines, position = _records(file, quoted=self.kind != "jsonl"), 0
        if self.kind != "jsonl" and (first := next(lines, None)) is not None:
            if first != self.head():
                raise MusiqError("other columns than this run would write")
            position = len(first)
        for line in lines:
            record = self._record(line)
            if record is None and position == 0:
                raise MusiqError("other columns than this run would write")
            if record is None:
                return
            position += len(line)
            yield position, record

    def _record(self, line: bytes) -> dict[str, Any] | None:
        text = line.decode("utf-8", "surrogateescape")
        try:
            if self.kind == "jsonl":
                record: dict[str, Any] = json.loads(text)
                return record if {"path", "model"} <= set(record) else None
            cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=DELIMITERS[self.kind]))
            return dict(zip(self.columns, cells, strict=True))
        except (ValueError, TypeError, StopIteration, csv.Error):
            return None


def _records(file: BinaryIO, quoted: bool) -> Iterator[bytes]:
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
