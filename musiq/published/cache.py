"""Where published models are kept: a folder for each name, in which one process at a time makes what is missing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from musiq.errors import MusiqError, check_installed
from musiq.terminal import tell

HOME = "MUSIQ_HOME"
STRAYS = ("tmp*", ".part-*")
"""Unfinished files of processes that were killed: pooch's, and this package's own."""


def home() -> Path:
    """The folder of all: $MUSIQ_HOME, else `musiq` in the cache folder of the platform."""
    if given := os.environ.get(HOME):
        return Path(given).expanduser()
    user = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or user / "AppData" / "Local") / "musiq" / "Cache"
    if sys.platform == "darwin":
        return user / "Library" / "Caches" / "musiq"
    return Path(os.environ.get("XDG_CACHE_HOME") or user / ".cache") / "musiq"


@contextmanager
def made_alone(folder: Path) -> Iterator[None]:
    """Make something in a folder while no other process does; each that comes meanwhile waits, and says so.

    The system ends the lock with its process, however that ends; what such a process left unfinished is removed.

    Raises:
        MusiqError: The folder cannot be written, or its file system has no locks.
    """
    check_installed(("filelock",), f"What is kept in {folder} is made once, under a lock, and that", "train")
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            tell(f"{folder.name}: another process is making it; waiting")
            lock.acquire()
    except (OSError, NotImplementedError) as problem:
        raise MusiqError(
            f"Cannot write into {folder}: {getattr(problem, 'strerror', None) or problem}. Set {HOME} to a folder with "
            "room and write access."
        ) from problem
    try:
        _sweep(folder)
        yield
    finally:
        lock.release()


def _sweep(folder: Path) -> None:
    for pattern in STRAYS:
        for stray in folder.glob(pattern):
            with suppress(OSError):
                shutil.rmtree(stray) if stray.is_dir() else stray.unlink()
