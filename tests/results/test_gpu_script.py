"""results/gpu.sh: one command from nothing but images to the rows of docs/benchmarks.md, here of a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.results.scripts import measured


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
