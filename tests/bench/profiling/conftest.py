"""Photographs and models that several files of this folder measure."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from musiq.model import checkpoint
from tests.recipe import lively_model, photo


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three JPEGs of 256x192 and a smaller PNG."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        cv2.imwrite(str(folder / f"{seed}.jpg"), photo(192, 256, seed))
    cv2.imwrite(str(folder / "other.png"), photo(64, 96, 9))
    return folder


@pytest.fixture(scope="session")
def any_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a `tiny` of one layer for images of any size."""
    path = tmp_path_factory.mktemp("any") / "any.safetensors"
    checkpoint.save(lively_model("tiny", height=None, width=None, layers=1), path)
    return path


@pytest.fixture(scope="session")
def one_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights for images of 96x64."""
    path = tmp_path_factory.mktemp("one") / "one.safetensors"
    checkpoint.save(lively_model("tiny", height=64, width=96, layers=1), path)
    return path
