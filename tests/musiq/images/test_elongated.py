"""Elongated images: the pixels of the whole image resized, without its memory."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from musiq.images.fit import fit
from tests.musiq.images.over import largest_difference
from tests.musiq.images.test_png import chunk

MEASURED = """
import resource, sys
from musiq.images.decode import prepare
prepare(sys.argv[1], 192, 256)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def whole(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """What `fit` promises, by resizing all of the image."""
    rows, columns = image.shape[:2]
    ratio = max(height / rows, width / columns)
    size = max(width, round(columns * ratio)), max(height, round(rows * ratio))
    how = cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(image, size, interpolation=how) if size != (columns, rows) else image
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    return np.asarray(resized[top : top + height, left : left + width], np.uint8)


LONG = [(1, 1000), (7, 300), (30, 1001), (60, 500), (61, 500), (100, 1234), (257, 3001), (599, 4001), (120, 960)]


@pytest.mark.parametrize("shape", [*LONG, *(shape[::-1] for shape in LONG)])
@pytest.mark.parametrize("kind", ["noise", "edges"])
def test_the_middle_of_a_long_image_is_that_of_the_whole_one(kind: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    if kind == "edges":
        image = np.where(image > 127, 255, 0).astype(np.uint8)
    found, how = fit(image, 40, 60)
    assert largest_difference(found, whole(image, 40, 60)) <= 2
    assert found.flags.c_contiguous
    assert how.startswith("resized") or shape in ((60, 500), (500, 60))
    assert "cropped" in how


def test_all_others_are_resized_as_ever() -> None:
    rng = np.random.default_rng(2)
    checked = 0
    for rows, columns in rng.integers(1, 200, (200, 2)):
        ratio = max(40 / rows, 60 / columns)
        if max(60, round(columns * ratio)) * max(40, round(rows * ratio)) > 4 * 40 * 60:
            continue
        image = rng.integers(0, 256, (rows, columns, 3), np.uint8)
        np.testing.assert_array_equal(fit(image, 40, 60)[0], whole(image, 40, 60))
        checked += 1
    assert checked > 100


def white_png(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel."""
    rows = zlib.compress((b"\0" + b"\xff" * -(-width // 8)) * height, 9)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def peak_mebibytes(path: Path) -> float:
    """The peak memory of a process that prepares one image; behind a shell, so that it does not inherit this one's."""
    command = f'"{sys.executable}" -c "$MEASURED" "{path}"; exit'
    done = subprocess.run(
        ["sh", "-c", command], env={"MEASURED": MEASURED, "PYTHONPATH": "."}, capture_output=True, text=True, check=True
    )
    return int(done.stdout) / (2**20 if sys.platform == "darwin" else 2**10)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no resource module")
@pytest.mark.parametrize(("width", "height"), [(1, 10_000), (10_000, 1), (1, 1_000_000), (3, 400_000)])
def test_an_elongated_image_takes_no_more_memory_than_a_square_one(tmp_path: Path, width: int, height: int) -> None:
    side = round((width * height) ** 0.5)
    (tmp_path / "long.png").write_bytes(white_png(width, height))
    (tmp_path / "square.png").write_bytes(white_png(side, side))
    assert peak_mebibytes(tmp_path / "long.png") < peak_mebibytes(tmp_path / "square.png") + 50
