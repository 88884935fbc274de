"""The scripts of results/, run on four small images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2

from tests.recipe import photo

RESULTS = Path(__file__).parents[2] / "results"


def measured(folder: Path, script: str, *options: str, **variables: str) -> tuple[list[dict[str, Any]], str]:
    """The rows of a script's report for `tiny` in fp16 on four small images of two sizes, and what it said on standard
    error."""
    photos = folder / "photos"
    photos.mkdir(exist_ok=True)
    for seed in range(4):
        cv2.imwrite(str(photos / f"{seed}.png"), photo(64, 96 + 32 * (seed % 2), seed))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **{"WORK": str(folder / "work"), "RESULT": str(folder / "report.json"), "PARTS": "fixed", "SIZES": "fixed"},
        **{"PRESETS": "tiny", "PRECISIONS": "fp16", "WIDTH": "96", "HEIGHT": "64"},
        **variables,
    }
    command = [str(RESULTS / script), str(photos), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text())["rows"], done.stderr
