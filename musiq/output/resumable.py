"""A file of rows that outlives being killed: no row lost, doubled or torn."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from musiq.errors import MusiqError
from musiq.files import atomic_write, link_target, special_kind
from musiq.images.header import is_image
from musiq.output.formats import RowFormat
from musiq.output.text import rows_of
from musiq.scoring import Row

SYNC_SECONDS = 2.0
"""How much work a power cut may cost; a killed process loses only what was not yet handed to the system."""


class RowFile:
    """A file that gets its name when it is whole: rows go to NAME.part, and `finish` makes NAME of it.

    NAME.part is as `row_format.gathering` says. With `resume`, NAME.part is continued (or NAME, where an earlier run had
    finished): a torn last row is cut off. Left as a context manager without `finish`, NAME.part stays. Of a symbolic link
    NAME is the file that it points to.

    NAME.part.json beside NAME.part has the settings that its rows were scored with, as rows do not say them themselves; a
    NAME.part without it is continued unchecked.

    Attributes:
        path: NAME.
        part: NAME.part.
        done: How many sources of each path are there already, by the UTF-8 name that rows have (`musiq.files.utf8_name`).
            The rows of a video's frames are one source, and the last video's are dropped: perhaps not all were written.
        errors: How many of them have an error.
    """

    def __init__(
        self,
        path: Path,
        row_format: RowFormat,
        models: Collection[str],
        resume: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Open NAME.part.

        Args:
            path: The file to make.
            row_format: Its format, of `musiq.output.formats.FORMATS`.
            models: What rows call the models of this run, so that a file never mixes those of others unnoticed.
            resume: Go on where an earlier run ended.
            settings: What else changes scores, for people to read: {"--background": "white"}.

        Raises:
            MusiqError: The file cannot be written, is an image, holds scores of another model or with other settings, or is
                being written by another process.
        """
        self.path = path
        with self._writing():
            self.path = link_target(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self._sidecar = self.path.with_name(self.path.name + ".part.json")
        self._settings = dict(settings or {})
        self.models = sorted(models)
        self.done: Counter[str] = Counter()
        self.errors = 0
        self._format, self._rows = row_format, row_format.gathering
        for place in (self.path, self.part):
            if kind := special_kind(place):
                raise MusiqError(f"Cannot write {place}: it is {kind}. Give the name of a file.")
        if is_image(self.path):
            raise MusiqError(f"Cannot write {path}: it is an image, which the rows would replace. Give another --out.")
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._opened()
            kept = self._resumed() if resume else 0  # may open another file than the one before
            self._file.truncate(kept)
            if not kept:
                self._note_settings()
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
                self._sidecar.unlink(missing_ok=True)  # of a NAME.part that is gone
                self._restore()
            kept = self._kept()
            if kept:
                self._check_settings()
            return kept
        except MusiqError as problem:
            self._file.close()
            if finished:
                self.part.unlink(missing_ok=True)  # nothing in it that NAME does not have
            if isinstance(problem.__cause__, OSError):  # of the disk, not of what the file holds
                raise problem.__cause__ from None
            name = self.path if finished else self.part
            raise MusiqError(f"Cannot resume {name}: it holds {problem}. Give another --out, or remove it.") from None

    def _restore(self) -> None:
        """Make NAME.part of NAME in one step, as half of it would lose rows when killed again."""
        with self._file, atomic_write(self.part) as copy:
            self._format.reopen(self.path, copy)
        self._file = self._opened()

    def _kept(self) -> int:
        """Count the rows that are there; the position after the last."""
        known = set(self.models)
        if len(known) > 1:
            known.add("")  # of images that got to none of several
        kept = before = errors = 0
        last: Row | None = None
        for end, row in self._rows.read(self._file):
            if row.model not in known:
                raise MusiqError(f"scores of the model {row.model}, not of {' or '.join(self.models)}")
            if not _goes_on(last, row):
                self.done[row.path] += 1
                before, errors = kept, self.errors
            self.errors += bool(row.error)
            kept, last = end, row
        if last is not None and last.frame is not None:
            self.done[last.path] -= 1
            kept, self.errors = before, errors
        return kept

    def rows(self) -> Iterable[Row]:
        """The rows that are there already, as they stand in NAME.part."""
        return rows_of(self.part, self._rows)

    def _note_settings(self) -> None:
        """Write NAME.part.json. Rows do not need it, so a disk that has no room for it is told by them."""
        with suppress(OSError):
            self._sidecar.unlink(missing_ok=True)
            if self._settings:
                self._sidecar.write_text(json.dumps(self._settings), encoding="utf-8")

    def _check_settings(self) -> None:
        """Refuse to go on with other settings than those of the rows that are there, where these are known."""
        try:
            before = json.loads(self._sidecar.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # of an earlier version, or torn
            return
        for name, now in self._settings.items():
            if isinstance(before, dict) and before.get(name, now) != now:
                raise MusiqError(f"rows scored with {name} {before[name]}, not {now}")

    def write(self, row: Row) -> None:
        """Hand a row to the system at once, so that a killed process loses none; to the disk every SYNC_SECONDS."""
        with self._writing(started=True):
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
        with self._writing(started=True):
            os.fsync(self._file.fileno())
            self._format.finish(self.part, self.path)
            self._sidecar.unlink(missing_ok=True)

    @contextmanager
    def _writing(self, started: bool = False) -> Iterator[None]:
        try:
            yield
        except (OSError, MusiqError) as problem:
            cause = problem if isinstance(problem, OSError) else problem.__cause__
            if not isinstance(cause, OSError):
                raise
            advice = "Give a place with room and write access."
            if started:
                advice = (
                    f"Make room: the rows so far are in {self.part}; the same command with --resume goes on from there."
                )
            reason = os.strerror(cause.errno) if cause.errno else cause  # pyarrow's own words are long
            raise MusiqError(f"Cannot write {self.path}: {reason}. {advice}") from problem

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._syncer.shutdown()
        with suppress(OSError):  # each row was flushed, or failed and was told
            self._file.close()


def _goes_on(last: Row | None, row: Row) -> bool:
    """Whether a row is of a later frame of the same video."""
    if last is None or last.frame is None or row.frame is None:
        return False
    return last.path == row.path and last.frame < row.frame


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
