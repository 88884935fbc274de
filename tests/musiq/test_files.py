"""Files that are there whole or not at all, and their hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from musiq.errors import MusiqError
from musiq.files import atomic_write, sha256


def test_the_file_appears_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.onnx"
    with atomic_write(path) as part:
        part.write_text("whole")
        assert part.suffix == ".onnx"
        assert part.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [each.name for each in path.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_error_what_was_there_before_is_untouched(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("before")

    def fail() -> None:
        with atomic_write(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(MusiqError, match=r"Cannot write .*model\.onnx: .*room and write access"),
        atomic_write(tmp_path / "file" / "model.onnx"),
    ):
        pass


def test_a_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    assert sha256(tmp_path / "file") == hashlib.sha256(b"bytes").hexdigest()
