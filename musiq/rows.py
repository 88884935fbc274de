"""Rows as text, and a file of them that outlives being killed: no row lost, doubled or torn."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from musiq.errors import MusiqError
from musiq.score import Row

FORMATS = ("csv", "tsv", "jsonl")
SYNC_SECONDS = 2.0
"""How much work a power cut may cost; a killed process loses only what was not yet handed to the system."""


class Table:
    """How rows are written: `path,score,fitted,error,model` and, for K > 1 ratings, `share_1` to `share_K`.

    `model` names the artefact in every row, so that a file never mixes the scores of two unnoticed. A path keeps its
    bytes, whatever they are; scores keep all digits of their float32.
    """

    def __init__(self, kind: str, model: str, outputs: int = 1) -> None:
        self.kind = kind
        self.model = model
        self.columns = ["path", "score", "fitted", "error", "model"]
        self.columns += [f"share_{rating}" for rating in range(1, outputs + 1) if outputs > 1]

    def head(self) -> bytes:
        return b"" if self.kind == "jsonl" else self._line(self.columns)

    def line(self, row: Row) -> bytes:
        shares = row.shares or ()
        if self.kind == "jsonl":
            record: dict[str, Any] = {"path": row.path, "score": row.score, "fitted": row.fitted, "error": row.error}
            record |= {"model": self.model} | ({"shares": shares} if shares else {})
            return json.dumps(record).encode() + b"\n"
        cells = [row.path, _digits(row.score), row.fitted, row.error, self.model, *map(_digits, shares)]
        return self._line(cells + [""] * (len(self.columns) - len(cells)))

    def _line(self, cells: list[str]) -> bytes:
        text = io.StringIO()
        csv.writer(text, delimiter="\t" if self.kind == "tsv" else ",", lineterminator="\n").writerow(cells)
        return text.getvalue().encode("utf-8", "surrogateescape")

    def read(self, file: BinaryIO) -> Iterator[tuple[int, dict[str, str]]]:
        """The whole records of a file of this kind, each with the position after it; ends before a torn one.

        Raises MusiqError for a file with other columns.
        """
        lines, position = _records(file, quoted=self.kind != "jsonl"), 0
        if self.kind != "jsonl" and (first := next(lines, None)) is not None:
            if first != self.head():
                raise MusiqError("other columns than this run would write")
            position = len(first)
        for line in lines:
            record = self._record(line)
            if record is None:
                return
            position += len(line)
            yield position, record

    def _record(self, line: bytes) -> dict[str, str] | None:
        text = line.decode("utf-8", "surrogateescape")
        try:
            if self.kind == "jsonl":
                record = json.loads(text)
                return {"path": str(record["path"]), "model": str(record["model"])}
            cells = next(csv.reader(io.StringIO(text, newline=""), delimiter="\t" if self.kind == "tsv" else ","))
            return dict(zip(self.columns, cells, strict=True))
        except (ValueError, KeyError, TypeError, StopIteration, csv.Error):
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


class RowFile:
    """A file that gets its name when it is whole: rows go to NAME.part, and `finish` renames it.

    With `resume`, NAME.part is continued (or NAME, where an earlier run had finished): a torn last record is cut off and
    `done` counts the paths that are there. Raises MusiqError where the file cannot be written, holds another model's
    scores, or is being written by another process. Left as a context manager without `finish`, NAME.part stays.
    """

    def __init__(self, path: Path, table: Table, resume: bool = False) -> None:
        self.path, self.part, self.table = path, path.with_name(path.name + ".part"), table
        self.done: Counter[str] = Counter()
        self._synced = time.monotonic()
        if path.is_dir():
            raise MusiqError(f"Cannot write {path}: it is a folder. Give the name of a file.")
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Neither "r+b", which does not create, nor "w+b", which truncates before the lock is held.
            self._file = os.fdopen(os.open(self.part, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            self._lock()
            self._file.truncate(self._kept() if resume else 0)
            if self._file.seek(0, os.SEEK_END) == 0:
                self._file.write(table.head())
            self._file.flush()

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            raise MusiqError(
                f"Another process is writing {self.part}. Wait for it, or give another --out."
            ) from problem

    def _kept(self) -> int:
        """Read what an earlier run left; the bytes of it that are whole records."""
        if os.fstat(self._file.fileno()).st_size == 0 and self.path.exists():
            self._file.write(self.path.read_bytes())
            self._file.seek(0)
        end = 0
        try:
            for end, record in self.table.read(self._file):  # noqa: B007
                if record["model"] != self.table.model:
                    raise MusiqError(f"scores of the model {record['model']}, not of {self.table.model}")
                self.done[record["path"]] += 1
        except MusiqError as problem:
            raise MusiqError(
                f"Cannot resume {self.path}: it holds {problem}. Give another --out, or remove it."
            ) from None
        return end

    def write(self, row: Row) -> None:
        """Handed to the system at once, so that a killed process loses none; to the disk every SYNC_SECONDS."""
        with self._writing():
            self._file.write(self.table.line(row))
            self._file.flush()
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()

    def finish(self) -> None:
        """Give the file its name."""
        with self._writing():
            os.fsync(self._file.fileno())
            os.replace(self.part, self.path)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            reason = problem.strerror or problem
            raise MusiqError(
                f"Cannot write {self.path}: {reason}. Give a place with room and write access."
            ) from problem

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
