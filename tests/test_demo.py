"""`make demo`: the model in the box scores, is exported and compared with people, and a tiny one is trained."""

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
def test_the_demo_scores_exports_compares_and_trains(tmp_path: Path) -> None:
    command = ["make", "demo", f"VENV={sys.prefix}", f"DEMO={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=3600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 102
    assert not any(row["error"] for row in rows)
    assert all(
        row["fitted"].startswith("resized") for row in rows if "canyon" in row["path"] or "desert" in row["path"]
    )
    report = json.loads((tmp_path / "reports" / "report.json").read_text())
    assert report["labels"]["n"] == 100
    found = {(row["format"], row["precision"]): row for row in report["rows"]}
    assert len(found) == len(report["rows"]) == 5  # PyTorch, and ONNX and OpenVINO in fp32 and int8
    for (_, precision), row in found.items():
        if row["status"] == "ok":
            assert row["srcc"] > 0.75, "people would not agree"
            assert row["role"] == "reference" or row["srcc_reference"] > (0.9999 if precision == "fp32" else 0.99)
        else:
            assert precision == "int8"
            assert "its export was refused" in row["reason"]
    assert "95% interval" in done.stdout
    assert (tmp_path / "reports" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "run" / "MODEL_CARD.md").exists()
