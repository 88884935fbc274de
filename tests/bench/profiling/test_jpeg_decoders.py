"""`python -m musiq_bench.profiling.jpeg_decoders`: what decoding costs, and how far decoders are from each other."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from musiq.errors import pip_install
from musiq_bench.profiling import jpeg_decoders


def test_decoders_are_compared_on_jpegs_alone_and_pillow_finds_the_same_pixels(photos: Path) -> None:
    pytest.importorskip("PIL")
    done = CliRunner().invoke(jpeg_decoders.main, [str(photos), "--height", "64", "--width", "64", "--times", "1"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("3 JPEG files for a model at 64x64")
    found = jpeg_decoders.measure(sorted(photos.iterdir()), 64, 64, None, times=1)
    assert found["OpenCV"].pixels == [0, 0, 0]
    assert max(found["Pillow"].pixels) <= 2, "both use libjpeg, of whatever version"
    assert max(found["OpenCV, the model's size left"].pixels) > 2, "an image of three times the size is decoded at half"


def test_a_decoder_that_is_not_installed_is_a_row_that_says_so(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    jpeg_decoders._nvimagecodec.cache_clear()
    found = jpeg_decoders.measure(sorted(photos.glob("*.jpg")), 64, 64, None, times=1)
    assert "simplejpeg" in found["simplejpeg"].problem
    table = jpeg_decoders.decoder_table(found, scored=False)
    assert "| simplejpeg | import of simplejpeg halted" in table
    assert f"{pip_install('nvimagecodec')}. |" in table


def test_without_a_jpeg_there_is_nothing_to_compare(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 32, 3), np.uint8))
    done = CliRunner().invoke(jpeg_decoders.main, [str(tmp_path)])
    assert done.exit_code == 1
    assert "No JPEG that stands upright" in done.output
