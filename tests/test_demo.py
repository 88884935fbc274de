"""`make demo`: a small model trained, exported, scored without torch and compared, by one command."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="make demo installs into a virtual environment; this is none")
@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_the_demo_trains_exports_scores_and_compares(tmp_path: Path) -> None:
    command = ["make", "demo", f"VENV={sys.prefix}", f"DEMO={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=3600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len([*(tmp_path / "data" / "test").iterdir()])
    assert not any(row["error"] for row in rows)
    report = json.loads((tmp_path / "reports" / "report.json").read_text())
    found = {row["format"]: row for row in report["rows"]}
    assert found["onnx"]["srcc_reference"] > 0.9999  # the file scores like the checkpoint it was made of,
    # which has learned to tell levels of distortion apart: 0.67 to 0.70 was seen, 0 is chance
    assert found["onnx"]["srcc"] > 0.5
    assert (tmp_path / "reports" / "report.html").stat().st_size > 10_000
