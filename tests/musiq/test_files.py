"""Files that are there whole or not at all, and their hashes."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from musiq.errors import MusiqError
from musiq.files import atomic_write, check_utf8, sha256, why_unreadable

ROOT = Path(__file__).resolve().parents[2]


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


def test_a_link_stays_one_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.onnx").write_text("before")
    (tmp_path / "link.onnx").symlink_to("elsewhere/model.onnx")
    (tmp_path / "new.onnx").symlink_to("elsewhere/new.onnx")
    for name in ("link.onnx", "new.onnx"):
        with atomic_write(tmp_path / name) as part:
            part.write_text("after")
        assert (tmp_path / name).is_symlink()
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["model.onnx", "new.onnx"]
    assert {path.read_text() for path in (tmp_path / "elsewhere").iterdir()} == {"after"}


def lay(kind: str, path: Path) -> None:
    """Put something there that is no file."""
    if kind == "a folder":
        path.mkdir()
    elif kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    else:
        path.symlink_to(os.devnull)


@pytest.mark.parametrize("kind", ["a folder", "a FIFO", "a socket", "a device"])
def test_what_is_no_file_is_neither_replaced_nor_read(kind: str, tmp_path: Path) -> None:
    lay(kind, path := tmp_path / "model.onnx")
    before = os.stat(path)
    with pytest.raises(MusiqError, match=f"Cannot write .*: it is {kind}"), atomic_write(path):
        pytest.fail("The work is not begun.")
    with pytest.raises(MusiqError, match=f"Cannot read .*: it is {kind}"):
        sha256(path)
    assert os.path.samestat(before, os.stat(path))


def test_a_missing_file_and_a_link_to_one_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to("nowhere")
    assert why_unreadable(tmp_path / "model.onnx") == "it is missing"
    assert why_unreadable(tmp_path / "link.onnx") == "it is a link to nowhere, which is missing"
    assert why_unreadable(tmp_path / "a\0b") != ""
    (tmp_path / "loop").symlink_to("loop")
    assert "symbolic links" in why_unreadable(tmp_path / "loop")


def test_names_of_other_bytes_than_utf_8_are_told() -> None:
    check_utf8(Path("日本.onnx"))
    with pytest.raises(MusiqError, match="is no UTF-8"):
        check_utf8(Path(os.fsdecode(b"caf\xe9.onnx")))


@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_a_name_is_the_same_in_every_locale(locale: dict[str, str], tmp_path: Path) -> None:
    for name in ("日本.png", os.fsdecode(b"caf\xe9.png")):
        (tmp_path / name).write_text("")
    code = (
        "import os, sys; from musiq.files import local_name, utf8_name\n"
        "assert os.path.exists(os.path.join(sys.argv[1], local_name('\\u65e5\\u672c.png')))\n"
        "print(sorted(ascii(utf8_name(name)) for name in os.listdir(sys.argv[1])))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **locale}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, env=environment, text=True)
    assert done.stdout == str(sorted(map(ascii, ("日本.png", "caf\udce9.png")))) + "\n"
