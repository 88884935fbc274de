"""MUSIQ, the multi-scale image quality transformer, for production. Importing this needs numpy, OpenCV and click alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

__version__ = "0.1.0"
