"""Takes the picture of a page that documents show: `python -m tests.page_picture page.html picture.png`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.browser import Browser

COLOURS = 256
"""Of its palette: photographs in all of theirs would be several times as many bytes."""


def take(page: Path, picture: Path, width: int = 1200, height: int = 760) -> None:
    """Save the top of a page as a PNG of few bytes."""
    with tempfile.TemporaryDirectory() as folder, Browser(Path(folder), width, height) as browser:
        browser.open(page)
        browser.picture(picture)
    with Image.open(picture) as whole:
        few = whole.convert("RGB").quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(picture, optimize=True)


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]))
