"""Rows written as they come, to standard output, a device, a FIFO: where nothing can be taken back, resumed or replaced."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from musiq.errors import MusiqError
from musiq.output.text import TextFormat
from musiq.scoring import Row

OPEN_FILES = re.compile(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/([0-9]+)")
"""Names of what this process has open already, also where that is a regular file."""


def is_stream(path: Path) -> bool:
    """Whether what lies at a path is written as rows come: a device, a FIFO, or a file that is open already."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return (
        OPEN_FILES.fullmatch(str(path)) is not None or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    )


class RowStream:
    """Writes rows to a stream, each handed on at once. A context manager."""

    def __init__(self, path: Path | None, row_format: TextFormat) -> None:
        """Open the stream, and write what stands before the first row.

        Args:
            path: A device or a FIFO, whose reader this waits for; None for standard output.
            row_format: How rows look.

        Raises:
            MusiqError: It cannot be written.
            BrokenPipeError: The reader of standard output went away, which ends a command quietly.
        """
        self._path, self._format = path, row_format
        self._file = _opened(path)
        self._write(row_format.head())

    @property
    def is_terminal(self) -> bool:
        """Whether a person sees the rows as they come."""
        return self._file.isatty()

    def write(self, row: Row) -> None:
        self._write(self._format.line(row))

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as problem:
            if self._path is None and problem.errno == errno.EPIPE:
                raise
            raise _unwritable(self._path, problem) from problem

    def __enter__(self) -> RowStream:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._path is not None:
            with suppress(OSError):  # all was flushed, or failed and was told
                self._file.close()


def _opened(path: Path | None) -> BinaryIO:
    if path is None:
        if sys.stdout is None:
            raise MusiqError("Standard output is closed. Leave it open, or name a file with --out.")
        return sys.stdout.buffer
    try:
        if found := OPEN_FILES.fullmatch(str(path)):  # opened anew, a file would be written from its start
            return os.fdopen(os.dup({"stdout": 1, "stderr": 2}.get(found[1]) or int(found[2])), "wb")
        return os.fdopen(os.open(path, os.O_WRONLY), "wb")
    except OSError as problem:
        raise _unwritable(path, problem) from problem


def _unwritable(path: Path | None, problem: OSError) -> MusiqError:
    reason = "its reader went away" if problem.errno == errno.EPIPE else problem.strerror or problem
    return MusiqError(f"Cannot write {path or 'standard output'}: {reason}.")
