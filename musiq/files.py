"""Files: written whole or not at all, known by their SHA-256 and their endings."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from musiq.errors import MusiqError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Let the block write a temporary file; on success it takes the place of `path`, on any error it is removed.

    Args:
        path: The file to make; its folder is made too where it is missing.

    Yields:
        The temporary path, beside `path`, whose name ends like that of `path`, for writers that look at the ending.

    Raises:
        MusiqError: The folder cannot be written, or the disk is full.
    """
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as problem:
        raise MusiqError(
            f"Cannot write {path}: {problem.strerror or problem}. Give a folder with room and write access."
        ) from problem
    finally:
        with suppress(OSError):  # of a folder that is none; the error itself says more
            part.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def suffix(path: Path, known: Iterable[str]) -> str | None:
    """The longest of the `known` endings that the file's name has: "x.rtx.engine" ends in .rtx.engine, not .engine."""
    return max((end for end in known if path.name.endswith(end)), key=len, default=None)
