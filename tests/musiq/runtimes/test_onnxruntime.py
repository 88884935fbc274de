"""ONNX Runtime on a CPU: whose files it takes, and what it says where its packages are wrong or missing a GPU."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest

from musiq.errors import MusiqError
from musiq.runtimes.registry import open_runtime


class _FakeSession:
    """A session that was asked for CUDA and quietly runs on the CPU, as ONNX Runtime does without a driver."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


def test_a_cuda_session_that_would_run_on_the_cpu_is_an_error_with_the_remedy(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", _FakeSession)
    with pytest.raises(MusiqError, match=r"would run tiny\.onnx on CPUExecutionProvider, not on cuda:0.*nvidia-smi"):
        open_runtime(tiny_onnx, "cuda:0")


def test_an_onnx_file_of_somebody_else_is_refused(tiny_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(tiny_onnx)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(MusiqError, match="was not made by musiq-export"):
        open_runtime(tmp_path / "other.onnx")


def test_both_onnxruntime_packages_at_once_are_pointed_out(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda package: "1.0")
    with pytest.warns(UserWarning, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        open_runtime(tiny_onnx, "cpu")


def test_an_onnx_file_whose_data_lies_outside_its_folder_is_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    (tmp_path / "secret.bin").write_bytes(bytes(16))
    weight = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="../secret.bin")
    floats = [helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", floats[:1], floats[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(MusiqError, match=r"cannot open .*External data path"):
        open_runtime(tmp_path / "in" / "m.onnx", "cpu")
