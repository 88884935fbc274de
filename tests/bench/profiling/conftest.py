"""Photographs that several files of this folder measure on."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from tests.recipe import photo


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three JPEGs of 256x192 and a smaller PNG."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        cv2.imwrite(str(folder / f"{seed}.jpg"), photo(192, 256, seed))
    cv2.imwrite(str(folder / "other.png"), photo(64, 96, 9))
    return folder
