"""Rows to a stream: as they come, and to nothing that is a file or a socket."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from musiq.errors import MusiqError
from musiq.output.stream import RowStream, is_stream
from musiq.output.text import Csv, JsonLines
from musiq.scoring import Row

ROW = Row("a.jpg", 1.5, model="m@1")


def test_what_is_a_stream(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("")
    (tmp_path / "device").symlink_to(os.devnull)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    streams = {path.name for path in tmp_path.iterdir() if is_stream(path)}
    assert streams == {"fifo", "device"}
    assert not is_stream(tmp_path / "missing")


def test_rows_reach_a_reader_as_they_come(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    lines: list[bytes] = []
    arrived = threading.Semaphore(0)

    def read() -> None:
        with (tmp_path / "fifo").open("rb") as file:
            for line in file:
                lines.append(line)
                arrived.release()

    reader = threading.Thread(target=read)
    reader.start()
    with RowStream(tmp_path / "fifo", Csv()) as stream:
        for count in (1, 2):
            stream.write(ROW)
            for _ in range(3 - count):  # the first row comes after the head
                assert arrived.acquire(timeout=60)
            assert len(lines) == count + 1
    reader.join()
    assert lines == [Csv().head(), Csv().line(ROW), Csv().line(ROW)]


def test_a_reader_that_goes_away_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with RowStream(tmp_path / "fifo", JsonLines()) as stream:
        os.close(reading)
        with pytest.raises(MusiqError, match=r"Cannot write .*fifo: its reader went away"):
            stream.write(ROW)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_full_device_is_told() -> None:
    with pytest.raises(MusiqError, match="Cannot write /dev/full: No space left on device"):
        RowStream(Path("/dev/full"), Csv())
