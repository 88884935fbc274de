"""Torch files and .npz files are read without running anything in them, and what is wrong with one is a line."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from musiq.errors import MusiqError
from musiq.model.tensor_files import read_npz, read_torch


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this code must never run",))


def _npz_of_objects(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, x=np.array([_Evil()], dtype=object))


def _npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(9))


def _npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, x=np.zeros(9))


def _cut(path: Path, make: Callable[[Path], object]) -> None:
    make(path)
    path.write_bytes(path.read_bytes()[:-40])


def test_tensors_plain_values_and_arrays_come_back(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "weights": {"a": torch.arange(3)}}, tmp_path / "a.pt")
    content = read_torch(tmp_path / "a.pt")
    assert isinstance(content, dict)
    assert content["epoch"] == 3
    assert torch.equal(content["weights"]["a"], torch.arange(3))
    np.savez(tmp_path / "a.npz", x=np.arange(4), y=np.float32(2))
    arrays = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(arrays["x"], np.arange(4))
    assert arrays["y"] == 2


BAD: dict[str, tuple[Callable[[Path], object], Callable[[Path], object], str]] = {
    "no torch file": (read_torch, lambda path: None, "Cannot read .*: No such file"),
    "a torch file that runs code": (read_torch, lambda path: torch.save(_Evil(), path), "could run code"),
    "a pickle that runs code": (read_torch, lambda path: path.write_bytes(pickle.dumps(_Evil())), "could run code"),
    "a text as torch file": (read_torch, lambda path: path.write_text("hello\nworld"), "is broken, or holds more"),
    "an empty torch file": (read_torch, lambda path: path.write_bytes(b""), "is broken, or holds more"),
    "half a torch file": (
        read_torch,
        lambda path: _cut(path, lambda path: torch.save(torch.zeros(9), path)),
        "is broken, or holds more",
    ),
    "no npz": (read_npz, lambda path: None, "Cannot read .*: No such file"),
    "an npz that runs code": (read_npz, _npz_of_objects, "holds Python objects, which are refused"),
    "a text as npz": (read_npz, lambda path: path.write_text("hello\nworld"), "is broken or holds"),
    "an npy as npz": (read_npz, _npy, "is broken or holds"),
    "half an npz": (
        read_npz,
        lambda path: _cut(path, _npz),
        "is broken or holds",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_in_one_line_and_nothing_in_it_runs(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read, make, reason = BAD[kind]
    path = tmp_path / "file"
    make(path)
    with pytest.raises(MusiqError, match=reason) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's own advice is how to run it
    assert "must never run" not in capsys.readouterr().out
