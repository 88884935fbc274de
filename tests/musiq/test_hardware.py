"""int8 on CPUs that may add two products in 16 bits: told from what they have, held to what ONNX Runtime does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from musiq import artifact
from musiq.hardware import adds_int8_exactly
from musiq.runtimes import registry
from musiq.runtimes.registry import open_runtime


def test_only_x86_without_vnni_may_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(flags: str) -> bool | None:
        monkeypatch.setattr(Path, "read_text", lambda self: flags)
        return adds_int8_exactly(machine=lambda: "x86_64")

    assert told("flags : sse avx2 fma") is False
    assert told("flags : avx2 avx512_vnni") is True
    assert told("flags : avx2 avx_vnni") is True
    assert adds_int8_exactly(machine=lambda: "aarch64") is True

    def unreadable(self: Path) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", unreadable)
    assert adds_int8_exactly(machine=lambda: "AMD64") is None


@pytest.mark.parametrize("largest", [64, 127])
def test_onnx_runtime_adds_as_this_cpu_is_said_to(largest: int) -> None:
    if largest == 127 and adds_int8_exactly() is None:
        pytest.skip("nothing tells here whether this CPU has VNNI")
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (64, 384), np.uint8)
    weights = draw.integers(-largest, largest + 1, (384, 384)).astype(np.int8)
    expected = (pixels.astype(np.int64) - 128) @ weights.astype(np.int64)
    found = product_in_onnx_runtime(pixels, weights)
    assert (found == expected).all() == (largest == 64 or adds_int8_exactly())


def product_in_onnx_runtime(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """pixels - 128 times weights, in the form that musiq-export gives an int8 product; float32, exact below 2^24."""
    shape, width = list(pixels.shape), weights.shape[1]
    constants = {
        "one": np.float32(1),
        "middle": np.uint8(128),
        "weights": weights,
        "ones": np.ones(width, np.float32),
        "zeros": np.zeros(width, np.int8),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["pixels", "one", "middle"], ["left"]),
        helper.make_node("DequantizeLinear", ["weights", "ones", "zeros"], ["right"], axis=1),
        helper.make_node("MatMul", ["left", "right"], ["sums"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("sums", TensorProto.FLOAT, [shape[0], width])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    sums: np.ndarray = session.run(None, {"pixels": pixels})[0]
    return sums


@pytest.mark.parametrize(
    ("weights", "exact", "warned"),
    [
        ("int8 per channel", False, True),
        ("int8 per channel, 7 bits used", False, False),
        ("int8 per channel", True, False),
        ("int8 per channel", None, False),
    ],
)
def test_an_int8_file_that_could_overflow_here_says_so_when_it_is_opened(
    tiny_onnx: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    weights: str,
    exact: bool | None,
    warned: bool,
) -> None:
    monkeypatch.setattr(registry, "adds_int8_exactly", lambda: exact)
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    record = artifact.read_record(tiny_onnx)
    assert record is not None
    artifact.write_record(path, replace(record, precision="int8", details={**record.details, "weights": weights}))
    open_runtime(path, "cpu").close()
    said = [str(one.message) for one in recwarn]
    assert any("tiny.onnx is unverified on this CPU" in one and "--weight-bits 7" in one for one in said) == warned
