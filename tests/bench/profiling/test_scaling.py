"""`results/growth.sh` and `python -m musiq_bench.profiling.jpeg_decoders`: what grows with the work, and what decoding
costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from musiq_bench.profiling import jpeg_decoders, scaling
from tests.recipe import photo

SCRIPT = Path(__file__).parents[3] / "results" / "growth.sh"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        cv2.imwrite(str(folder / f"{seed}.jpg"), photo(192, 256, seed))
    cv2.imwrite(str(folder / "other.png"), photo(64, 96, 9))
    return folder


def test_one_command_measures_batches_sizes_and_numbers_of_images(tmp_path: Path, photos: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **{"WORK": str(tmp_path / "work"), "RESULT": str(tmp_path / "growth.json"), "PRESET": "tiny"},
        **{"SIZES": "64x48 96x64", "SIZE": "96x64", "BATCHES": "1 2", "COUNTS": "1 6", "CALLS": "1"},
    }
    done = subprocess.run([str(SCRIPT), str(photos)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    values = json.loads((tmp_path / "growth.json").read_text())
    onnx = [call for call in values["over_batch"] if call["name"] == "onnx fp32"]
    assert [call["batch"] for call in onnx] == [1, 2]
    assert {round(call["megapixels"], 6) for call in values["over_size"]} == {64 * 48 / 1e6, 96 * 64 / 1e6}
    assert [run["images"] for run in values["runs"]] == [1, 6]
    assert all(run["seconds"] > 0 and run["peak_memory_mib"] > 10 for run in values["runs"])
    plot = cv2.imread(str(tmp_path / "growth.png"))
    assert plot is not None
    assert min(plot.shape[:2]) > 500
    assert "| onnx fp32 | 2 |" in done.stdout


def test_a_size_without_memory_is_a_row_with_its_reason() -> None:
    short = scaling.BatchCost("onnx fp32", 12.0, 1, None, None, "out of memory", "killed")
    assert "| onnx fp32 | 12.00 | out of memory: killed |  |" in scaling.tables([], [short], [])
    assert scaling.draw([], [short], []).startswith(b"\x89PNG")


def test_a_run_that_fails_is_not_a_figure(tmp_path: Path, photos: Path) -> None:
    done = CliRunner().invoke(
        scaling.main,
        [
            "--model",
            str(tmp_path / "none.onnx"),
            "--images",
            str(photos),
            "--count",
            "1",
            "--out",
            str(tmp_path / "g.json"),
        ],
    )
    assert done.exit_code == 1
    assert "over 1 images ended with exit code 1" in done.output
    assert not (tmp_path / "g.json").exists()


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
    found = jpeg_decoders.measure(sorted(photos.glob("*.jpg")), 64, 64, None, times=1)
    assert "simplejpeg" in found["simplejpeg"].problem
    row = next(
        line
        for line in jpeg_decoders.decoder_table(found, scored=False).splitlines()
        if line.startswith("| simplejpeg")
    )
    assert "import of simplejpeg halted" in row


def test_without_a_jpeg_there_is_nothing_to_compare(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 32, 3), np.uint8))
    done = CliRunner().invoke(jpeg_decoders.main, [str(tmp_path)])
    assert done.exit_code == 1
    assert "No JPEG that stands upright" in done.output
