"""Artifacts and their records: written whole or not at all, known by their SHA-256, refused when they changed.

An artifact `model.onnx` has beside it a record `model.onnx.json`: what it is (Spec, format, precision, inputs, batch),
where it comes from (checkpoint and versions), what is inside (layer types) and how it compared with the original.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from musiq.errors import MusiqError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, on any error it is removed.

    The temporary name ends like `path`, for writers that look at the ending. Raises MusiqError where the folder cannot be
    written or the disk is full.
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
        part.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def suffix(path: Path, known: tuple[str, ...] | list[str]) -> str | None:
    """The longest of the `known` endings that the file's name has: "x.rtx.engine" ends in .rtx.engine, not .engine."""
    return max((end for end in known if path.name.endswith(end)), key=len, default=None)
