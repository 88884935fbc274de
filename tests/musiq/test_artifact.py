"""Records: what is written comes back, with its types; those written before it had any still load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from musiq.artifact import (
    CalibrationFiles,
    Check,
    Cost,
    Details,
    Int8Details,
    Record,
    Sensitivity,
    Speed,
    read_record,
    write_record,
)
from musiq.errors import MusiqError
from musiq.files import sha256
from musiq.presets import preset

CHECK = Check(8, 0.061, 0.02, 0.976, True, "CPUExecutionProvider", "photos", 0, 0.061)
COST = Cost(0.072, 0.028, 1.0)
INT8 = Int8Details(
    products=17,
    weight_bits=7,
    activations="uint8",
    rounding="products: nearest",
    calibration=CalibrationFiles(("a.jpg", "b/c.jpg"), ("d.jpg",)),
    sensitivity=Sensitivity(7, ("layers.1.mlp",), COST, {"layers.1.mlp": Cost(9.5, 1.5, None)}),
)
SPEED = Speed(20.1, 30.2, 1, 1.502, False)


def record(**changes: Any) -> Record:
    return replace(
        Record(preset("tiny"), "onnx", "fp16", "ab12", {"name": "tiny.safetensors", "sha256": "0"}), **changes
    )


@pytest.mark.parametrize(
    "details",
    [
        Details(),
        Details(18, 166, 0.2451, 13.6, "cpu", tf32=False, weight_types={"float16": 661972, "float32": 65750}),
        Details(gpus=(75, 86), compatible=True, profile=(1, 4, 4), pyramid_precision="fp16", tf32=True),
        Details(gpus=(86,), profile=(1, 4, 4), tokens=(16, 4096)),
        Details(int8=INT8, speed=SPEED),
        Details(int8=Int8Details(products=3)),
    ],
)
def test_a_record_comes_back_as_it_was_written(details: Details) -> None:
    before = record(check=CHECK, batch=(1, 32), details=details)
    assert Record.from_json(before.to_json()) == before


def test_a_record_leaves_out_what_its_format_has_not() -> None:
    assert json.loads(record(details=Details(opset=18, tf32=False)).to_json())["details"] == {
        "opset": 18,
        "tf32": False,
    }


OLD_CHECK = """{"images": 8, "max_difference": 0.061, "mean_difference": 0.02, "srcc": 0.976, "passed": true,
  "provider": "CPUExecutionProvider", "pictures": "photos", "uncertain": 0, "decisive_difference": 0.061}"""

OLD_FP16 = """{"opset": 18, "nodes": 166, "weights": {"float16": 661972, "float32": 65750}, "tuned_for": "cpu",
  "tf32": false, "build_s": 13.6, "gflop": 0.2451}"""

OLD_ENGINE = """{"opset": 18, "gpus": [75, 86], "compatible": false, "profile": [1, 4, 4], "pyramid": "fp16",
  "tuned_for": "gpu", "tf32": false, "build_s": 13.8, "gflop": 0.0853}"""

OLD_INT8 = """{"opset": 18, "nodes": 206, "int8_products": 17,
  "calibration": {"ranges": ["a.jpg", "b/c.jpg"], "held_out": ["d.jpg"]},
  "sensitivity": {"pictures": 7, "kept_fp32": ["layers.1.mlp"],
   "together": {"max_difference": 0.072, "mean_difference": 0.028, "srcc": 1.0},
   "groups": {"layers.1.mlp": {"max_difference": 9.5, "mean_difference": 1.5, "srcc": null}}},
  "activations": "uint8", "weights": "int8 per channel, 7 bits used", "rounding": "products: nearest",
  "tuned_for": "cpu", "tf32": false, "build_s": 6.5, "gflop": 0.2451,
  "speed": {"int8_ms": 20.1, "fp32_ms": 30.2, "batch": 1, "times_fp32": 1.502, "forced": false}}"""

OLD_INT8_OF_8_BITS = """{"int8_products": 3, "activations": "int8 symmetric", "weights": "int8 per channel",
  "sensitivity": {"images": 7, "kept_fp32": [], "together": {"max_difference": 0.072, "mean_difference": 0.028,
   "srcc": 1.0}, "groups": {}}}"""

CPU = {"tuned_for": "cpu", "tf32": False, "gflop": 0.2451}


@pytest.mark.parametrize(
    ("old", "details"),
    [
        (OLD_FP16, Details(18, 166, build_s=13.6, weight_types={"float16": 661972, "float32": 65750}, **CPU)),
        (
            OLD_ENGINE,
            Details(18, None, 0.0853, 13.8, "gpu", False, gpus=(75, 86), profile=(1, 4, 4), pyramid_precision="fp16"),
        ),
        (OLD_INT8, Details(18, 206, build_s=6.5, int8=INT8, speed=SPEED, **CPU)),
        (
            OLD_INT8_OF_8_BITS,
            Details(int8=Int8Details(3, 8, "int8 symmetric", sensitivity=Sensitivity(7, (), COST, {}))),
        ),
        ("{}", Details()),
    ],
)
def test_a_record_written_before_its_details_had_types_says_the_same(old: str, details: Details) -> None:
    today = json.loads(record().to_json())
    text = json.dumps({**today, "check": json.loads(OLD_CHECK), "details": json.loads(old)})
    assert Record.from_json(text) == record(check=CHECK, details=details)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"spec": 3}', '{"details": {"gpus": 4}}', '{"details": {"odd": 4}}'])
def test_what_is_no_record_is_one_error(text: str) -> None:
    whole = json.loads(record().to_json())
    if text.startswith('{"details"'):
        text = json.dumps({**whole, **json.loads(text)})
    with pytest.raises(MusiqError, match=r"record cannot be read .*Export the model again"):
        Record.from_json(text)


def test_an_artifact_changed_by_one_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the graph that was checked")
    write_record(path, record(sha256=sha256(path)))
    assert read_record(path) is not None
    path.write_bytes(b"the graph that was chekced")
    with pytest.raises(MusiqError, match=r"model\.onnx is not the file that was checked"):
        read_record(path)
