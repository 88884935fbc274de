"""`make bench-cpu`: one command from nothing but images to the rows of docs/benchmarks.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.results.scripts import measured


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
