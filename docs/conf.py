"""How Sphinx makes pages of this folder: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

from musiq.version import __version__

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # train.py

project = "musiq"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["_build"]

# Pages are read on a code host too, whose anchors these are.
myst_heading_anchors = 4

# Docstrings write `names` in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# So that the pages need neither torch nor what comes with it.
autodoc_mock_imports = ["torch", "torchvision", "einops", "timm", "safetensors"]

html_theme = "furo"
html_title = f"musiq {version}"
html_copy_source = False
html_static_path: list[str] = []
