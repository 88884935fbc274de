"""Publishing finished files or folders whole: they are made in a folder beside their goal, then renamed into place."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from musiq.errors import MusiqError


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """A folder beside `path`, so that renaming is one step; removed whatever happens.

    Raises MusiqError where it cannot be made, and for any OSError within, such as of a full disk.
    """
    # Named before it is made, so that a signal that comes right after it was made finds it removed too.
    folder = path.with_name(f".part-{secrets.token_hex(4)}")
    try:
        try:
            folder.mkdir(parents=True)
        except OSError as problem:
            raise MusiqError(
                f"Cannot write into {path.parent}: {problem.strerror}. Give --out a folder with write access."
            ) from problem
        yield folder
    except OSError as problem:
        raise MusiqError(
            f"Cannot write {path}: {problem.strerror or problem}. Give --out a folder with room."
        ) from problem
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(parts: Sequence[Path], folder: Path) -> None:
    """Rename finished files, or folders of them, from a stage into `folder`, the last named last.

    A file takes the place of an earlier one of its name, and a folder that of an earlier folder, which stays where that
    fails.
    """
    for part in parts:
        for file in [part] if part.is_file() else part.rglob("*"):
            if file.is_file():
                _sync(file)
    for part in parts:
        _take_place(part, folder / part.name)


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _take_place(part: Path, goal: Path) -> None:
    """Rename `part` to `goal`; a folder there cannot be renamed over, and goes into the stage, or back."""
    earlier = part.with_name(f".earlier-{part.name}")
    try:
        if goal.is_dir():
            os.replace(goal, earlier)
        os.replace(part, goal)
    except BaseException:
        if earlier.exists() and not goal.exists():
            os.replace(earlier, goal)
        raise
