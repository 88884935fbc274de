"""The install lines that errors print lead to where this musiq came from."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from musiq import errors
from musiq.errors import pip_install

ROOT = Path(__file__).resolve().parents[2]
Came = Callable[[str | None], str]


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Came]:
    """The line for [cpu] in an installation outside a checkout, with this direct_url.json (PEP 610)."""

    def of(direct_url: str | None) -> str:
        monkeypatch.setattr(errors, "__file__", str(tmp_path / "site-packages" / "musiq" / "errors.py"))
        monkeypatch.setattr(
            importlib.metadata, "distribution", lambda _: SimpleNamespace(read_text=lambda _: direct_url)
        )
        pip_install.cache_clear()
        return pip_install("cpu")

    yield of
    pip_install.cache_clear()


def test_a_checkout_is_named_by_its_folder() -> None:
    assert pip_install("cpu,train") == f"pip install --editable '{ROOT}[cpu,train]'"


def test_a_wheel_is_named_by_its_file(line: Came) -> None:
    said = line(json.dumps({"url": "file:///my%20wheels/musiq-0.1.0-py3-none-any.whl", "archive_info": {}}))
    assert said == "pip install '/my wheels/musiq-0.1.0-py3-none-any.whl[cpu]'"


def test_what_came_from_the_web_is_named_by_its_address(line: Came) -> None:
    repository = {"url": "https://example.com/musiq.git", "vcs_info": {"vcs": "git", "commit_id": "4894a9c"}}
    assert line(json.dumps(repository)) == "pip install 'musiq[cpu] @ git+https://example.com/musiq.git'"
    wheel = {"url": "https://example.com/musiq-0.1.0-py3-none-any.whl", "archive_info": {}}
    assert line(json.dumps(wheel)) == "pip install 'musiq[cpu] @ https://example.com/musiq-0.1.0-py3-none-any.whl'"


def test_only_what_came_from_an_index_is_sent_to_an_index(line: Came) -> None:
    assert line(None) == "pip install 'musiq[cpu]'"


def test_no_other_line_of_the_source_sends_to_an_index() -> None:
    files = [file for folder in ("musiq", "export", "bench", "examples") for file in (ROOT / folder).rglob("*.py")]
    assert not [str(file) for file in files if "install 'musiq[" in file.read_text()]
