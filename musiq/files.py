"""Files: written whole or not at all, known by their SHA-256, and told from what only looks like one."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from musiq.errors import MusiqError

KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Let the block write a temporary file; on success it takes the place of `path`, on any error it is removed.

    Args:
        path: The file to make; its folder is made too where it is missing. A symbolic link stays one: the file that it
            points to is made.

    Yields:
        The temporary path, beside the file, whose name ends like that of the file, for writers that look at the ending.

    Raises:
        MusiqError: The folder cannot be written, the disk is full, or what lies at `path` is no file.
    """
    part = None
    try:
        target = link_target(path)
        if kind := special_kind(target):
            raise MusiqError(f"Cannot write {path}: it is {kind}. Give the name of a file.")
        part = target.with_name(f".part-{os.getpid()}-{target.name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as problem:
        raise MusiqError(
            f"Cannot write {path}: {problem.strerror or problem}. Give a folder with room and write access."
        ) from problem
    finally:
        if part is not None:
            with suppress(OSError):  # of a folder that is none; the error itself says more
                part.unlink(missing_ok=True)


def link_target(path: Path) -> Path:
    """The path itself, or where it is a symbolic link the path that it leads to, whether there is anything or not.

    Raises OSError for a link that leads to itself.
    """
    target = Path(os.path.realpath(path)) if os.path.islink(path) else path
    if os.path.islink(target):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


def special_kind(path: Path) -> str:
    """What lies at a path instead of a regular file, such as "a folder"; "" for a file, and where there is nothing."""
    try:
        return _kind(os.stat(path).st_mode)
    except OSError:
        return ""


def _kind(mode: int) -> str:
    return next((words for is_kind, words in KINDS if is_kind(mode)), "")


def why_unreadable(path: Path) -> str:
    """Why a path cannot be read as a file, to follow "Cannot read it: "; "" where it can.

    A FIFO is told here, as opening one waits for a writer that may never come.
    """
    try:
        kind = _kind(os.stat(path).st_mode)
    except FileNotFoundError:
        return f"it is a link to {os.readlink(path)}, which is missing" if os.path.islink(path) else "it is missing"
    except (OSError, ValueError) as problem:
        return getattr(problem, "strerror", None) or str(problem)
    if kind:
        return f"it is {kind}"
    return "" if os.access(path, os.R_OK) else "permission denied"


@contextmanager
def opened_to_read(path: Path) -> Iterator[BufferedReader]:
    """A file open for reading bytes. Raises MusiqError that says why it cannot be read, also while it is."""
    if why := why_unreadable(path):
        raise MusiqError(f"Cannot read {path}: {why}.")
    try:
        with path.open("rb") as file:
            yield file
    except OSError as problem:
        raise MusiqError(f"Cannot read {path}: {problem.strerror or problem}.") from problem


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits. Raises MusiqError that says why they cannot be read."""
    with opened_to_read(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_utf8(path: Path) -> None:
    """Raise MusiqError for a path that libraries written in C++ cannot open: they are given UTF-8 and take it as it is."""
    try:
        name = os.fsencode(path).decode()
    except UnicodeError:
        raise MusiqError(f"The name {path} is no UTF-8, as runtimes need it: rename it, or its folder.") from None
    if name != os.fspath(path):
        raise MusiqError(f"The name {path} is UTF-8 and the locale is not: set LC_ALL=C.UTF-8, or rename it.")


def utf8_name(name: str) -> str:
    """A file's name as UTF-8 reads its bytes, whatever the locale; bytes that are no UTF-8 stay surrogates, as in Python.

    In a UTF-8 locale that is the name itself. In others Python has another one for the same file.
    """
    try:
        data = os.fsencode(name)
    except UnicodeEncodeError:  # no name of this file system: a URL, or a column's cell
        return name
    return data.decode("utf-8", "surrogateescape")


def local_name(text: str) -> str:
    """A file's name out of a UTF-8 text, as this locale has it: where that lacks a character, the name's UTF-8 bytes."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    return text
