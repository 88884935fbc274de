"""How Sphinx makes pages of this folder: `make docs`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from musiq.version import __version__

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # train.py

project = "musiq"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["_build"]

# Pages are read on a code host too, whose anchors these are.
myst_heading_anchors = 4
smartquotes = False  # --list-models is no dash

# Docstrings write `names` in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# So that the pages need neither torch nor what comes with it.
autodoc_mock_imports = ["torch", "torchvision", "einops", "timm", "safetensors"]

html_theme = "furo"
html_title = f"musiq {version}"
html_copy_source = False
html_show_search_summary = (
    False  # which a page opened as a file may not load, and the search would end at its first hit
)
html_show_copyright = False


def link_out(app: Any, name: str, source: list[str]) -> None:
    """Links to texts outside this folder, which a code host follows, become downloads here; the changelog is a page."""
    text = source[0].replace("(../CHANGELOG.md)", "(changelog.md)")
    source[0] = re.sub(r"\[([^]]+)\]\((\.\./[^)#]+\.md)(?:#[^)]*)?\)", r"{download}`\1 <\2>`", text)


def escape_stars(app: Any, context: Any, lines: list[str]) -> None:
    """Help texts are plain: `runs/*` begins no emphasis."""
    lines[:] = [line if line.lstrip().startswith(("..", ":")) else line.replace("*", r"\*") for line in lines]


def setup(app: Any) -> None:
    app.connect("source-read", link_out)
    for part in ("description", "options", "epilog"):
        app.connect(f"sphinx-click-process-{part}", escape_stars)
