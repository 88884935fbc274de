"""The Ray Data example on a Ray of this machine: the scores of a Scorer, a broken image is a row."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import musiq
from tests.score_samples import save_mean_model, saved, scene

pytest.importorskip("ray", reason="needs Ray: pip install '.[ray]'")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "ray_data.py"


def test_the_example_prints_the_scores_of_a_local_scorer(tmp_path: Path) -> None:
    save_mean_model(tmp_path / "mean.onnx")
    (tmp_path / "photos").mkdir()
    for number in range(9):
        (tmp_path / "photos" / f"{number}.png").write_bytes(saved(scene(number), "png"))
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"This is not an image.\n")
    command = [sys.executable, str(EXAMPLE), "photos", "mean.onnx"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = dict(line.split("\t") for line in done.stdout.splitlines() if "\t" in line)
    with musiq.load(tmp_path / "mean.onnx") as scorer:
        rows = list(scorer.score_many(sorted((tmp_path / "photos").iterdir())))
    assert sorted(printed) == [row.path for row in rows]
    for row in rows:
        text = printed[row.path]
        assert (text == row.error) if row.score is None else (float(text) == pytest.approx(row.score))
