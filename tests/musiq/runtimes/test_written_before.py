"""Checkpoints and artifacts of an earlier version still open, with their records, and give the scores that they gave."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path

import numpy as np
import pytest

from musiq import artifact
from musiq.errors import MusiqError
from musiq.file_formats import ending_of
from musiq.hardware import adds_int8_exactly
from musiq.runtimes import cuda
from musiq.runtimes.registry import open_runtime

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "written_before"
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
SCORES: dict[str, dict[str, float | list[float]]] = json.loads((FOLDER / "scores.json").read_text())["scores"]
PACKAGES = {".onnx": "onnxruntime", ".xml": "openvino"}
"""What an ending needs beyond PyTorch."""


@pytest.mark.parametrize("name", SCORES)
def test_a_file_written_before_gives_the_score_that_it_gave_then(name: str) -> None:
    pytest.importorskip(PACKAGES.get(ending_of(Path(name)) or "", "torch"))
    if name == "small-int8.onnx" and adds_int8_exactly() is False:
        pytest.skip("weights of 8 bits: this CPU's sums of their products overflow")
    # Bit for bit where it was made; another CPU may add in another order, and then round to another of int8's steps.
    tolerance = 0.05 if "int8" in name else 1e-6
    found = open_runtime(FOLDER / name, "cpu").run(IMAGE[None])
    assert set(found) == set(SCORES[name])
    for output, expected in SCORES[name].items():
        np.testing.assert_allclose(found[output][0], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", [name for name in SCORES if not name.endswith(".safetensors")])
def test_a_record_written_before_is_that_of_its_artifact(name: str) -> None:
    record = artifact.read_record(FOLDER / name)
    assert record is not None
    assert (record.precision, record.spec.height) == ("int8" if "int8" in name else "fp32", 64)
    assert record.inputs == ("pyramid" if "pyramid" in name else "image")
    assert record.check is not None
    assert record.check.passed
    assert record.check.image_source == "generated"
    assert record.details.gflop is not None
    bits = {"small-int8.onnx": 8, "small-int8-7.onnx": 7}
    assert (record.details.int8.weight_bits if record.details.int8 else None) == bits.get(name)


def test_an_engine_written_before_is_the_recorded_one_and_says_what_it_runs_on(tmp_path: Path) -> None:
    path = tmp_path / "small.rtx.engine"
    path.write_bytes(lzma.decompress((FOLDER / "small.rtx.engine.xz").read_bytes()))
    shutil.copy(FOLDER / "small.rtx.engine.json", tmp_path)
    record = artifact.read_record(path)
    assert record is not None
    assert record.details.gpus == (86,)
    assert record.unverified == "no NVIDIA driver here"
    pytest.importorskip("tensorrt_rtx")
    if not cuda.why_no_gpu() and cuda.find("auto").capability == 86:
        assert open_runtime(path)(IMAGE[None]) == pytest.approx(SCORES["small.onnx"]["score"], abs=0.05)
    else:
        with pytest.raises(MusiqError, match=r"no NVIDIA (driver|GPU) here|was built (by|for)|cuda-python"):
            open_runtime(path)
