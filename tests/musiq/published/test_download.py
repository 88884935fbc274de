"""Files of published models come whole, checked and once, or not at all; all else is one line that says what to do."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from musiq.errors import MusiqError
from musiq.published import checkpoint_path
from musiq.published.table import PUBLISHED
from tests.full_disk import files_of_at_most
from tests.musiq.published.publisher import Publisher

ROOT = Path(__file__).resolve().parents[3]
KONIQ = "koniq_ckpt.npz"


def known_by(monkeypatch: pytest.MonkeyPatch, hash: str, name: str = "musiq-koniq", size: int | None = None) -> None:
    """Let the table know a published file by this hash."""
    monkeypatch.setitem(PUBLISHED, name, dataclasses.replace(PUBLISHED[name], hash=hash, size=size))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def kept(cache: Path) -> list[str]:
    """The files of all names, but the locks."""
    return sorted(path.name for path in cache.glob("*/*") if path.name != ".lock")


def process(name: str = "musiq-koniq") -> subprocess.Popen[str]:
    """Another process that asks for a checkpoint."""
    command = [sys.executable, "-m", "tests.musiq.published.publisher", name]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_first_download_is_kept_with_its_hash_which_is_said(
    cache: Path, mirror: Publisher, small_files: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    digest = sha256(small_files[KONIQ])
    path = checkpoint_path("musiq-koniq")
    assert (cache / "musiq-koniq" / KONIQ).read_bytes() == small_files[KONIQ]
    assert (cache / "musiq-koniq" / f"{KONIQ}.sha256").read_text() == f"{digest}  {KONIQ}\n"
    assert path == cache / "musiq-koniq" / "musiq-koniq.safetensors"
    said = capfd.readouterr()
    assert digest in said.err
    assert f"downloading {mirror.address}/{KONIQ} (163 MB)" in said.err
    assert said.out == ""


def test_what_is_in_the_cache_asks_no_network(cache: Path, mirror: Publisher) -> None:
    assert checkpoint_path("musiq-koniq") == checkpoint_path("musiq-koniq")
    assert mirror.asked == [f"/{KONIQ}"]


def test_a_later_download_has_to_be_the_first_one_again(cache: Path, mirror: Publisher) -> None:
    path = checkpoint_path("musiq-koniq")
    path.unlink()
    path.with_name(KONIQ).unlink()
    mirror.files[KONIQ] += b"another"
    with pytest.raises(MusiqError, match="another file than the published one; nothing is kept"):
        checkpoint_path("musiq-koniq")
    assert kept(cache) == [f"{KONIQ}.sha256"]


def test_a_file_in_the_cache_that_changed_is_refused_with_what_to_do(cache: Path, mirror: Publisher) -> None:
    path = checkpoint_path("musiq-koniq")
    path.unlink()
    path.with_name(KONIQ).write_bytes(b"changed")
    with pytest.raises(MusiqError, match=f"Remove .*{KONIQ}, and it is downloaded again"):
        checkpoint_path("musiq-koniq")


def test_a_kept_hash_that_is_none_is_no_hash_that_fits(cache: Path, mirror: Publisher) -> None:
    path = checkpoint_path("musiq-koniq")
    path.unlink()
    path.with_name(f"{KONIQ}.sha256").write_text("")
    with pytest.raises(MusiqError, match="holds no SHA-256"):
        checkpoint_path("musiq-koniq")


@pytest.mark.parametrize("kind", ["sha256", "md5", "the first digits"])
def test_a_known_hash_is_checked(
    kind: str, cache: Path, mirror: Publisher, small_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small_files[KONIQ]
    right = {"sha256": sha256(data), "md5": hashlib.md5(data).hexdigest(), "the first digits": sha256(data)[:8]}[kind]
    prefix = "md5:" if kind == "md5" else "sha256:"
    known_by(monkeypatch, prefix + ("0" if right[0] != "0" else "1") + right[1:])
    with pytest.raises(MusiqError, match="another file than the published one; nothing is kept"):
        checkpoint_path("musiq-koniq")
    assert kept(cache) == []
    known_by(monkeypatch, prefix + right)
    assert checkpoint_path("musiq-koniq").exists()


def test_a_known_size_is_checked(
    cache: Path, mirror: Publisher, small_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    known_by(monkeypatch, "", size=len(small_files[KONIQ]) + 1)
    with pytest.raises(MusiqError, match=f"{len(small_files[KONIQ]):,} bytes, expected"):
        checkpoint_path("musiq-koniq")
    assert kept(cache) == []


@pytest.mark.parametrize("way", ["half", "half, of no length", "a page"])
def test_half_a_file_and_a_portals_page_leave_nothing_even_where_no_hash_is_known(
    way: str, cache: Path, mirror: Publisher
) -> None:
    mirror.way = way
    with pytest.raises(MusiqError):
        checkpoint_path("musiq-koniq")
    assert kept(cache) == []
    mirror.way = "whole"
    assert checkpoint_path("musiq-koniq").exists()


def test_weights_of_another_dataset_than_the_name_says_are_not_kept(cache: Path, mirror: Publisher) -> None:
    mirror.files[KONIQ] = mirror.files["ava_ckpt.npz"]
    with pytest.raises(MusiqError, match="is not musiq-koniq; nothing is kept"):
        checkpoint_path("musiq-koniq")
    assert kept(cache) == []


def test_redirects_are_followed(cache: Path, mirror: Publisher) -> None:
    mirror.way = "redirect"
    assert checkpoint_path("musiq-koniq").exists()
    assert mirror.asked == [f"/{KONIQ}", f"/elsewhere/{KONIQ}"]


def test_proxies_of_the_environment_are_used(cache: Path, mirror: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSIQ_MIRROR", "http://weights.invalid/musiq/")
    monkeypatch.setenv("http_proxy", mirror.address)
    assert checkpoint_path("musiq-koniq").exists()
    assert mirror.asked == [f"http://weights.invalid/musiq/{KONIQ}"]


def test_a_full_disk_is_one_line_and_leaves_nothing(cache: Path, mirror: Publisher) -> None:
    with files_of_at_most(2**15), pytest.raises(MusiqError, match="there is no room"):
        checkpoint_path("musiq-koniq")
    assert kept(cache) == []


def test_a_mirror_that_is_no_address_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSIQ_MIRROR", "/srv/weights")
    with pytest.raises(MusiqError, match="MUSIQ_MIRROR is '/srv/weights'; expected an address"):
        checkpoint_path("musiq-koniq")


@pytest.mark.parametrize(("files", "reason"), [({}, "404"), (None, "refused")])
def test_a_file_that_cannot_be_had_says_how_to_place_it_by_hand(
    files: dict[str, bytes] | None, reason: str, cache: Path, mirror: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.files = {}
    if files is None:
        monkeypatch.setenv("MUSIQ_MIRROR", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(MusiqError) as problem:
        checkpoint_path("musiq-koniq")
    said = str(problem.value)
    assert reason in said
    assert f"fetch {PUBLISHED['musiq-koniq'].address} elsewhere and put it at {cache / 'musiq-koniq' / KONIQ}" in said
    assert kept(cache) == []


def test_offline_takes_what_was_placed_by_hand_and_asks_nobody(
    cache: Path, mirror: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSIQ_OFFLINE", "1")
    with pytest.raises(MusiqError, match=r"MUSIQ_OFFLINE forbids the network\. By hand: fetch https"):
        checkpoint_path("musiq-koniq")
    (cache / "musiq-koniq" / KONIQ).write_bytes(mirror.files[KONIQ])
    assert checkpoint_path("musiq-koniq").exists()
    assert mirror.asked == []


Forbid = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture
def read_only(mirror: Publisher, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forbid]:
    """Makes a folder of the cache, which is at a place open to all, one that this process may not write."""

    @contextmanager
    def forbidden(folder: Path) -> Iterator[None]:
        folder.chmod(0o555)
        user = os.geteuid()
        os.seteuid(65534 if user == 0 else user)  # root may write everywhere
        try:
            yield
        finally:
            os.seteuid(user)
            folder.chmod(0o755)

    with TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        monkeypatch.setenv("MUSIQ_HOME", place)
        yield forbidden


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs permissions as POSIX has them")
def test_a_read_only_cache_serves_what_it_has_and_says_what_it_cannot(read_only: Forbid, mirror: Publisher) -> None:
    path = checkpoint_path("musiq-koniq")
    path.with_name(".lock").unlink()
    with read_only(path.parent):
        assert checkpoint_path("musiq-koniq") == path
        assert not path.with_name(".lock").exists()
    with (
        read_only(path.parent.parent),
        pytest.raises(MusiqError, match="Set MUSIQ_HOME to a folder with room and write"),
    ):
        checkpoint_path("musiq-ava")
    assert mirror.asked == [f"/{KONIQ}"]


def test_a_cache_that_cannot_be_made_is_one_line(
    tmp_path: Path, mirror: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MUSIQ_HOME", str(tmp_path / "file" / "cache"))
    with pytest.raises(MusiqError, match="Set MUSIQ_HOME to a folder with room and write access"):
        checkpoint_path("musiq-koniq")
    assert mirror.asked == []


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_a_download_that_is_stopped_halfway_leaves_nothing_to_the_next(
    end: signal.Signals, cache: Path, mirror: Publisher
) -> None:
    mirror.way = "hang"
    stopped = process()
    assert mirror.halfway.wait(300)
    stopped.send_signal(end)
    stopped.communicate()
    assert KONIQ not in kept(cache)
    if end == signal.SIGINT:
        assert kept(cache) == []
    mirror.go_on.set()
    mirror.way = "whole"
    checkpoint_path("musiq-koniq")
    assert kept(cache) == [KONIQ, f"{KONIQ}.sha256", "musiq-koniq.safetensors"]


def test_two_processes_at_once_download_once_and_have_the_same_file(cache: Path, mirror: Publisher) -> None:
    mirror.way = "hang"
    first = process()
    assert mirror.halfway.wait(300)
    second = process()
    assert second.stderr is not None
    assert "another process is making it; waiting" in second.stderr.readline()
    mirror.go_on.set()
    done = [each.communicate(timeout=300) for each in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0]
    assert len({out for out, _ in done}) == 1
    assert mirror.asked == [f"/{KONIQ}"]
    assert kept(cache) == [KONIQ, f"{KONIQ}.sha256", "musiq-koniq.safetensors"]
