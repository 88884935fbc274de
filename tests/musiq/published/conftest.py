"""Published files of small models, and a publisher that serves them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from musiq.published import resolve
from tests.musiq.published.publisher import Publisher, publisher, small_layouts

pytest.importorskip("torch")
pytest.importorskip("pooch")


@pytest.fixture(scope="session")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The published files' contents, small, by the name that each has where it is published."""
    from tests.musiq.model.foreign_files import flax_file, pyiqa_file

    folder = tmp_path_factory.mktemp("published")
    with small_layouts():
        files = {
            "koniq_ckpt.npz": flax_file(folder / "koniq.npz", "1"),
            "ava_ckpt.npz": flax_file(folder / "ava.npz", "10"),
            "musiq_koniq_ckpt-e95806b9.pth": pyiqa_file(folder / "koniq.pth", 1),
        }
    return {name: path.read_bytes() for name, path in files.items()}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own, with nothing of the environment's that would change how files come there."""
    for name in ("MUSIQ_OFFLINE", "MUSIQ_MIRROR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MUSIQ_HOME", str(tmp_path / "cache"))
    resolve._tell_notice.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def mirror(cache: Path, small_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """A publisher of them that the environment names as the mirror."""
    with publisher() as server, small_layouts():
        server.files = dict(small_files)
        monkeypatch.setenv("MUSIQ_MIRROR", server.address)
        yield server
