"""What a command line means: lists in every encoding that tools write, folders, and what has a row already."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from musiq.errors import MusiqError
from musiq.scoring.sources import expand, listed, without
from tests.score_samples import saved, scene

NAMES = ["photos/a.jpg", "日本.png", "https://example.org/c.jpg"]
LINES = "".join(f"{name}\n" for name in NAMES)


@pytest.mark.parametrize(
    "data",
    [
        LINES.encode(),
        LINES.encode("utf-8-sig"),
        LINES.replace("\n", "\r\n").encode("utf-8-sig"),
        LINES.encode("utf-16"),
        b"\xfe\xff" + LINES.replace("\n", "\r\n").encode("utf-16-be"),
        LINES.encode("utf-32"),
        LINES.replace("\n", "\0").encode(),
        LINES.replace("\n", "\0").encode("utf-16"),
        f"\n\n{LINES}-\n".encode().rstrip(),
    ],
)
def test_a_list_is_read_in_whatever_encoding_and_with_whatever_between_its_names(data: bytes) -> None:
    assert listed(data) == NAMES


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_known_by_its_ascii(encoding: str) -> None:
    assert listed("photos/a.jpg\r\nb.jpg\r\n".encode(encoding)) == ["photos/a.jpg", "b.jpg"]


def test_names_between_nuls_keep_every_byte() -> None:
    names = ["a\nb.jpg", " c.jpg ", "d.jpg\r", "caf\udce9.jpg", "BMW/1.jpg"]
    data = b"".join(name.encode("utf-8", "surrogateescape") + b"\0" for name in names)
    assert listed(data) == names
    assert listed(b"BMW/1.jpg\nGIF89a/2.gif\n") == ["BMW/1.jpg", "GIF89a/2.gif"]


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "webp"])
def test_an_image_on_stdin_is_no_list(kind: str) -> None:
    with pytest.raises(MusiqError, match=r"an image on stdin \(.* 96x64\), not a list"):
        listed(saved(scene(1), kind))


def test_a_list_that_is_not_in_its_encoding_is_told() -> None:
    with pytest.raises(MusiqError, match=r"begins like UTF-16 and is not .*Write it again, in UTF-8"):
        listed("a.jpg\n".encode("utf-16") + b"\x00")


def test_an_empty_list_is_nothing_to_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(MusiqError, match="stdin: it is closed"):
        expand(["-"])
    with pytest.raises(MusiqError, match="nothing to score"):
        expand([])


def test_folders_become_their_images(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    assert expand([str(tmp_path), "missing.jpg"]) == [str(tmp_path / "b.png"), "missing.jpg"]


def test_a_source_given_twice_is_left_once_where_it_has_one_row() -> None:
    sources = ["a.jpg", "日本.jpg", "a.jpg", "caf\udce9.jpg"]
    assert without(sources, Counter(["a.jpg", "日本.jpg", "caf\udce9.jpg"])) == ["a.jpg"]
