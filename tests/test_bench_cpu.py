"""`make bench-cpu` and results/gpu.sh: one command from nothing but pictures to the rows that the README quotes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from tests.recipe import picture

RESULTS = Path(__file__).parents[1] / "results"
SCRIPT = RESULTS / "cpu.sh"


def test_one_command_makes_weights_and_artefacts_and_measures_them(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(4):
        cv2.imwrite(str(photos / f"{seed}.png"), picture(64, 96, seed))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **{"WORK": str(tmp_path / "work"), "RESULT": str(tmp_path / "cpu.json")},
        **{"PRESETS": "tiny", "PRECISIONS": "fp16", "WIDTH": "96", "HEIGHT": "64"},
    }
    options = ["--calls", "1", "--seconds", "0", "--rounds", "1", "--warmup", "0"]
    done = subprocess.run([str(SCRIPT), str(photos), *options], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "cpu.json").read_text())["rows"]
    assert {(row["format"], row["precision"], row["batch"]) for row in rows if row["status"] == "ok"} == {
        (format, precision, batch)
        for format, precision in (("pytorch", "fp32"), ("onnx", "fp16"), ("openvino", "fp16"))
        for batch in (1, 8)
    }
    again = subprocess.run([str(SCRIPT), str(photos), *options], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "== tiny" not in again.stderr, "what is there is not made again"


def test_the_script_for_gpus_measures_what_was_asked_for(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(4):
        cv2.imwrite(str(photos / f"{seed}.png"), picture(64, 96, seed))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **{"WORK": str(tmp_path / "work"), "RESULT": str(tmp_path / "gpu.json"), "BASELINES": "eager:bf16"},
        **{"PRESETS": "tiny", "PRECISIONS": "fp16", "WIDTH": "96", "HEIGHT": "64", "BATCHES": "2", "DEVICES": "cpu"},
        **{"CALLS": "1", "ROUNDS": "1"},
    }
    command = [str(RESULTS / "gpu.sh"), str(photos), "--seconds", "0", "--warmup", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert {(row["status"], row["device"]) for row in rows} == {("ok", "cpu")}
    assert sorted((row["model"], row["format"], row["precision"], row["batch"]) for row in rows) == [
        ("tiny", "pytorch", "bf16", 2),
        ("tiny", "pytorch", "fp32", 2),
        ("tiny-fp16", "onnx", "fp16", 2),
        ("tiny-fp16", "torchscript", "fp16", 2),
        ("tiny-fp16-exported", "pt2", "fp16", 2),
        ("tiny-fp16-only2", "onnx", "fp16", 2),
    ]
