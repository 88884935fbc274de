"""`results/growth.sh` and `python -m musiq_bench.profiling.scaling`: how time and memory grow with the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner

from musiq.errors import pip_install
from musiq_bench.profiling import scaling

SCRIPT = Path(__file__).parents[3] / "results" / "growth.sh"


@pytest.mark.slow
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


def test_without_matplotlib_nothing_is_measured_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = CliRunner().invoke(scaling.main, ["--out", str(tmp_path / "g.json")])
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert f"needs matplotlib: {pip_install('bench')}." in done.output
    assert not list(tmp_path.iterdir())


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
