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
