"""The script that measures a model without this project."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

pytest_plugins = ["tests.bench_fixtures"]


def test_the_plain_timing_script_runs_on_its_own(place: Path) -> None:
    script = Path(__file__).parents[1] / "plain_timing.py"
    command = [
        sys.executable,
        str(script),
        str(place / "exports" / "brightness.onnx"),
        str(place / "photos" / "00.png"),
        "20",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=place, env=os.environ)
    assert done.returncode == 0, done.stderr
    said = done.stdout.split()
    assert (said[0], said[2:]) == ("p50", ["ms", "of", "20", "calls"])
    assert float(said[1]) > 0
    assert "musiq" not in script.read_text().partition('"""\n\nimport')[2]
