"""Foreign checkpoints that several test files look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Foreign checkpoint files by name, each made once; the names do not tell what is inside."""
    pytest.importorskip("torch")
    from tests.musiq.model.foreign_files import classic_file, flax_file, pyiqa_file

    folder = tmp_path_factory.mktemp("foreign")
    makers: dict[str, Callable[[Path], Path]] = {
        "classic": classic_file,
        "pyiqa/1": lambda path: pyiqa_file(path, 1),
        "pyiqa/10": lambda path: pyiqa_file(path, 10, under="params"),
        "google/1": lambda path: flax_file(path, "1"),
        "google/10": lambda path: flax_file(path, "10"),
        "google/single": lambda path: flax_file(path, "single"),
    }

    def get(name: str) -> Path:
        ending = ".npz" if name.startswith("google") else ".bin"  # numpy insists on its ending
        path = folder / (name.replace("/", "-") + ending)
        return path if path.exists() else makers[name](path)

    return get
