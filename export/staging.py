"""From a checkpoint to a checked file: build under a temporary name, score, compare, and only then rename."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from musiq.errors import MusiqError

if TYPE_CHECKING:
    pass


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """A folder beside the goal, so that renaming is one step; removed whatever happens."""
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


def _publish(files: list[Path], folder: Path) -> None:
    """Rename the finished files into place, the artifact itself last."""
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(file, folder / file.name)
