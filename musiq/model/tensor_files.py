"""Reads torch's files and numpy's .npz files safely: nothing in a file is ever executed, and a broken one is one line."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musiq.errors import MusiqError, one_line

BROKEN = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What torch and numpy raise for files that are cut short, damaged, of another kind, or hold what is refused."""


def read_torch(path: Path | str) -> object:
    """The content of a torch file: tensors on the CPU in dicts, lists and plain Python values.

    Args:
        path: A file by `torch.save`, a zip archive or the pickle of torch before 1.6. It is read with
            `weights_only=True`, and there is no fallback to less.

    Raises:
        MusiqError: The file cannot be read, is broken, or holds more than tensors and plain values.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as problem:
        raise _unreadable(path, problem) from problem
    except BROKEN as problem:
        reason = one_line(problem).partition(". ")[0]  # torch goes on with how to run that code
        raise MusiqError(
            f"{path} is broken, or holds more than tensors, which is refused because it could run code "
            f"({reason.rstrip('.')}). Save it again as plain state dicts."
        ) from problem


def read_npz(path: Path | str) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file by their names.

    Args:
        path: A file by `numpy.savez`; it is read with `allow_pickle=False`.

    Raises:
        MusiqError: The file cannot be read, is broken, or holds Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in file.files}
    except FileNotFoundError as problem:
        raise _unreadable(path, problem) from problem
    except (OSError, *BROKEN) as problem:  # OSError: damage that zlib or zipfile finds
        raise MusiqError(
            f"{path} is broken or holds Python objects, which are refused ({one_line(problem)})."
        ) from problem


def _unreadable(path: Path | str, problem: OSError) -> MusiqError:
    return MusiqError(f"Cannot read {path}: {problem.strerror or problem}. Check the path and its permissions.")
