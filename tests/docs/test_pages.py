"""The pages: the index has all of them, and Sphinx makes them without a warning, to be read without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def test_the_index_links_every_page_and_the_menu_has_it() -> None:
    index = (DOCS / "index.md").read_text()
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md")} - {"index"}
    pages = {page for page in pages if not page.startswith("_build")}
    assert {link.removesuffix(".md") for link in re.findall(r"\]\(([\w/-]+\.md)\)", index)} == pages
    menu = {line for block in re.findall(r"```{toctree}(.*?)```", index, re.S) for line in block.split("\n")}
    assert pages <= menu


def test_the_reference_has_every_command() -> None:
    page = (DOCS / "reference" / "commands.md").read_text()
    packages = {"musiq": "musiq", "export": "musiq_export", "bench": "musiq_bench"}
    for folder, package in packages.items():
        for file in (ROOT / folder).rglob("*.py"):
            if "\n@click.command(" in file.read_text():
                name = ".".join([package, *file.relative_to(ROOT / folder).with_suffix("").parts])
                assert f".. click:: {name}:main\n" in page, f"{name} is not in docs/reference/commands.md"
    assert ".. click:: train:main\n" in page


def test_the_readme_is_read_in_two_minutes() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 160
    assert len(readme.split()) <= 1800
    assert "musiq-score" in "\n".join(readme.splitlines()[:40]).split("```sh")[1], "the first score comes first"
    broken = [link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", readme) if not (ROOT / link).exists()]
    assert not broken


@pytest.mark.slow
def test_the_pages_are_made_without_a_warning_and_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("sphinx_click", reason="needs the extra: pip install '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    for page, words in (
        ("commands.html", "--max-tokens"),
        ("python.html", "score_many"),
        ("../searchindex.js", "musiq"),
    ):
        assert words in (tmp_path / "reference" / page).read_text()
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=\"(https?:[^\"]*)", page.read_text())
        assert not loaded, page.name
