"""A file of rows that outlives being killed: no row lost, doubled or torn."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from musiq.errors import MusiqError
from musiq.files import atomic_write
from musiq.output import parquet
from musiq.output.text import Table
from musiq.scoring.row import Row

SYNC_SECONDS = 2.0
"""How much work a power cut may cost; a killed process loses only what was not yet handed to the system."""


class RowFile:
    """A file that gets its name when it is whole: rows go to NAME.part, and `finish` makes NAME of it.

    NAME.part is of the same format, but JSON Lines for Parquet and for the classic text. With `resume`, NAME.part is
    continued (or NAME, where an earlier run had finished): a torn last record is cut off and `done` counts the paths that
    are there. Raises MusiqError where the file cannot be written, holds another model's scores, or is being written by
    another process. Left as a context manager without `finish`, NAME.part stays.
    """

    def __init__(self, path: Path, table: Table, resume: bool = False) -> None:
        self.path, self.part = path, path.with_name(path.name + ".part")
        self.table, self._rows = table, table.gathering()
        self.done: Counter[str] = Counter()
        if table.kind == "parquet":
            parquet.import_pyarrow()  # a missing package is told before the work, not after it
        if path.is_dir():
            raise MusiqError(f"Cannot write {path}: it is a folder. Give the name of a file.")
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._opened()
            kept = self._resumed() if resume else 0  # may open another file than the one before
            self._file.truncate(kept)
            if self._file.seek(0, os.SEEK_END) == 0:
                self._file.write(self._rows.head())
            self._file.flush()
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="musiq-sync")
        self._syncing: Future[None] | None = None
        self._synced = time.monotonic()

    def _opened(self) -> BinaryIO:
        """NAME.part, locked, whatever is in it."""
        # Neither "r+b", which does not create, nor "w+b", which truncates before the lock is held.
        file = os.fdopen(os.open(self.part, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        if _locked(file) and self.part.exists() and os.path.samestat(os.fstat(file.fileno()), self.part.stat()):
            return file
        file.close()  # or the file was given its name between being opened and locked
        raise MusiqError(f"Another process is writing {self.part}. Wait for it, or give another --out.")

    def _resumed(self) -> int:
        """Take over what an earlier run left in NAME.part, or else in NAME; the bytes of NAME.part that are whole rows."""
        finished = not os.fstat(self._file.fileno()).st_size and self.path.exists()
        try:
            if finished:
                self._restore()
            return self._kept()
        except MusiqError as problem:
            self._file.close()
            if finished:
                self.part.unlink(missing_ok=True)  # nothing in it that NAME does not have
            name = self.path if finished else self.part
            raise MusiqError(f"Cannot resume {name}: it holds {problem}. Give another --out, or remove it.") from None

    def _restore(self) -> None:
        """Make NAME.part of NAME in one step, as half of it would lose rows when killed again."""
        if self.table.kind == "txt":
            raise MusiqError("rows that do not say which model they are of")
        with self._file, atomic_write(self.part) as copy:
            if self.table.kind == "parquet":
                with copy.open("wb") as file:
                    file.writelines(map(self._rows.text, parquet.read(self.path)))
            else:
                shutil.copyfile(self.path, copy)
        self._file = self._opened()

    def _kept(self) -> int:
        end, labels = 0, sorted(self.table.labels.values())
        known = {*labels, ""} if len(labels) > 1 else {*labels}  # "" of images that got to none of several
        for end, record in self._rows.read(self._file):  # noqa: B007
            if record["model"] not in known:
                raise MusiqError(f"scores of the model {record['model']}, not of {' or '.join(labels)}")
            self.done[record["path"]] += 1
        return end

    def write(self, row: Row) -> None:
        """Handed to the system at once, so that a killed process loses none; to the disk every SYNC_SECONDS."""
        with self._writing():
            self._file.write(self._rows.line(row))
            self._file.flush()
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self._sync()

    def _sync(self) -> None:
        """In a thread: a slow disk may take a second for it, in which the model would run out of images."""
        if self._syncing is not None:
            self._syncing.result()
        self._syncing, self._synced = self._syncer.submit(os.fsync, self._file.fileno()), time.monotonic()

    def finish(self) -> None:
        """Give the file its name."""
        with self._writing():
            os.fsync(self._file.fileno())
            if self._rows is self.table:
                os.replace(self.part, self.path)
            else:
                self._convert()
                self.part.unlink()

    def _convert(self) -> None:
        self._file.seek(0)
        records = (record for _, record in self._rows.read(self._file))
        with atomic_write(self.path) as copy:
            if self.table.kind == "parquet":
                parquet.write(copy, records, self.table.outputs)
            else:
                with copy.open("wb") as file:
                    file.writelines(map(self.table.text, records))

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

    def __exit__(self, *exception: Any) -> None:
        self._syncer.shutdown()
        self._file.close()


def _locked(file: BinaryIO) -> bool:
    """Take the file's lock; False where another process holds it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
