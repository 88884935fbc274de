"""This machine: the CPUs that a process may use, and int8 on CPUs that may add two products in 16 bits."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from musiq import artifact, hardware
from musiq.artifact import Int8Details
from musiq.hardware import adds_int8_exactly, available_cpus, cgroup_cpus, cuda_index, why_no_driver
from musiq.runtimes import registry
from musiq.runtimes.registry import open_runtime


@pytest.mark.parametrize(
    ("machine", "flags", "exact"),
    [
        ("x86_64", "flags : sse avx2 fma", False),
        ("x86_64", "flags : avx2 avx512_vnni", True),
        ("AMD64", "flags : avx2 avx_vnni", True),
        ("AMD64", None, None),
        ("aarch64", None, True),
    ],
)
def test_only_x86_without_vnni_may_overflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, flags: str | None, exact: bool | None
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(hardware, "CPU_FACTS", tmp_path / "cpuinfo")
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(flags)
    assert adds_int8_exactly() is exact


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for the files of cgroups, and where a process says which of them it is in: `membership`."""
    monkeypatch.setattr(hardware, "CGROUP", tmp_path)
    monkeypatch.setattr(hardware, "MEMBERSHIP", tmp_path / "membership")
    return tmp_path


def test_the_cpus_are_those_that_the_process_is_allowed(cgroup: Path) -> None:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert cgroup_cpus() is None
    assert available_cpus() == affinity
    (cgroup / "membership").write_text("0::/outer/inner\n")
    inner = cgroup / "outer" / "inner"
    inner.mkdir(parents=True)
    assert cgroup_cpus() is None
    (inner / "cpu.max").write_text("max 100000\n")
    assert cgroup_cpus() is None
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    assert cgroup_cpus() == 1.5
    (inner / "cpu.max").write_text("50000 100000\n")
    assert cgroup_cpus() == 0.5
    assert available_cpus() == 1  # never none


def test_the_older_cgroup_quota_counts_too(cgroup: Path) -> None:
    (cgroup / "membership").write_text("5:cpuacct,cpu:/job\n3:memory:/job\n")
    folder = cgroup / "cpu" / "job"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("300000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert cgroup_cpus() == 3
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert cgroup_cpus() is None


@pytest.mark.parametrize(("device", "index"), [("cuda:1", 1), ("cuda", 0), ("auto", 0), ("tensorrt:12", 12)])
def test_a_device_names_its_gpu(device: str, index: int) -> None:
    assert cuda_index(device) == index


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "DRIVER", "libnone.so.1")
    assert why_no_driver() == "there is no NVIDIA driver here (libnone.so.1 cannot be loaded)"


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
    ("bits", "exact", "warned"),
    [(8, False, True), (7, False, False), (8, True, False), (8, None, False)],
)
def test_an_int8_file_that_could_overflow_here_says_so_when_it_is_opened(
    tiny_onnx: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    bits: int,
    exact: bool | None,
    warned: bool,
) -> None:
    monkeypatch.setattr(registry, "adds_int8_exactly", lambda: exact)
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    record = artifact.read_record(tiny_onnx)
    assert record is not None
    details = replace(record.details, int8=Int8Details(products=17, weight_bits=bits))
    artifact.write_record(path, replace(record, precision="int8", details=details))
    open_runtime(path, "cpu").close()
    said = [str(one.message) for one in recwarn]
    assert any("tiny.onnx is unverified on this CPU" in one and "--weight-bits 7" in one for one in said) == warned
