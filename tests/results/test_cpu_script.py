"""`make bench-cpu` and results/gpu.sh: one command from nothing but images to the rows of docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest

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


@pytest.mark.slow
def test_one_command_makes_weights_and_artifacts_and_measures_them(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    options = ["--calls", "1", "--seconds", "0", "--rounds", "1", "--warmup", "0"]
    rows, _ = measured(tmp_path, "cpu.sh", *options)
    assert {(row["format"], row["precision"], row["batch"]) for row in rows if row["status"] == "ok"} == {
        (format, precision, batch)
        for format, precision in (("pytorch", "fp32"), ("onnx", "fp16"), ("openvino", "fp16"))
        for batch in (1, 8)
    }
    _, errors = measured(tmp_path, "cpu.sh", *options)
    assert "== tiny" not in errors, "what is there is not made again"


@pytest.mark.slow
def test_models_for_any_size_are_made_and_measured_too(tmp_path: Path) -> None:
    options = ["--calls", "1", "--seconds", "0", "--rounds", "1", "--warmup", "0"]
    rows, _ = measured(tmp_path, "cpu.sh", *options, SIZES="any")
    assert {row["any_size"] for row in rows if row["status"] == "ok"} == {True}
    assert {row["model"] for row in rows} == {"tiny", "tiny-any-fp16"}


@pytest.mark.slow
def test_the_script_for_gpus_measures_models_for_any_size_over_the_mixture(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    asked = {"PARTS": "any", "BATCHES": "2", "DEVICES": "cpu", "CALLS": "2", "ROUNDS": "1", "TOKENS": "512"}
    asked["RESULT_ANY"] = str(tmp_path / "report.json")
    rows, said = measured(tmp_path, "gpu.sh", "--seconds", "0", "--warmup", "0", **asked)
    assert {row["status"] for row in rows} == {"ok"}
    assert sorted((row["model"], row["precision"], row["any_size"]) for row in rows) == [
        ("tiny", "fp16", False),
        ("tiny", "fp16", True),
        ("tiny", "fp32", False),
        ("tiny", "fp32", True),
        ("tiny-any", "fp16", True),
        ("tiny-fixed", "fp16", False),
        ("tiny-graph2", "fp16", True),
        ("tiny-padded", "fp16", True),
        ("tiny-patches", "fp16", True),
    ]
    assert next(line for line in said.splitlines() if line.startswith("== ")) == "== tiny-any", "the most telling first"


@pytest.mark.slow
def test_the_script_for_gpus_measures_what_was_asked_for(tmp_path: Path) -> None:
    asked = {"BASELINES": "eager:bf16", "BATCHES": "2", "DEVICES": "cpu", "CALLS": "1", "ROUNDS": "1"}
    rows, _ = measured(tmp_path, "gpu.sh", "--seconds", "0", "--warmup", "0", **asked)
    assert {(row["status"], row["device"]) for row in rows} == {("ok", "cpu")}
    assert sorted((row["model"], row["format"], row["precision"], row["batch"]) for row in rows) == [
        ("tiny", "pytorch", "bf16", 2),
        ("tiny", "pytorch", "fp32", 2),
        ("tiny-fp16", "onnx", "fp16", 2),
        ("tiny-fp16", "torchscript", "fp16", 2),
        ("tiny-fp16-exported", "pt2", "fp16", 2),
        ("tiny-fp16-only2", "onnx", "fp16", 2),
    ]
