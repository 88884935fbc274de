"""An ONNX file in ONNX Runtime, on CPU or CUDA, without torch."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from musiq.errors import MusiqError
from musiq.runtimes import Images, Scores, cuda_index
from musiq.runtimes.feed import Feed
from musiq.threads import available_cpus

MEND_BOTH = "pip uninstall -y onnxruntime onnxruntime-gpu  and then  pip install 'musiq[gpu]'  (or 'musiq[cpu]')"


class OrtRuntime:
    """ONNX Runtime; safe to call from several threads. Fails closed: asked for CUDA, it never runs on the CPU quietly."""

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        ort = import_onnxruntime()
        self._session = _open(ort, path, device, threads or available_cpus())
        self.provider: str = self._session.get_providers()[0]
        metadata = self._session.get_modelmeta().custom_metadata_map
        self._feed = Feed.from_metadata(metadata, path)
        self.spec = self._feed.spec
        self._inputs = [put.name for put in self._session.get_inputs()]

    def __call__(self, images: Images) -> Scores:
        return self.run(images)["score"]

    def run(self, images: Images) -> dict[str, Scores]:
        return self._feed.run(images, self._call)

    def _call(self, arrays: list[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        return self._session.run(None, dict(zip(self._inputs, arrays, strict=True)))

    def close(self) -> None:
        del self._session


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime, or a MusiqError with its install line; warns where both of its packages overwrote each other."""
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) == 2:
        warnings.warn(
            f"onnxruntime and onnxruntime-gpu are both installed and overwrite each other: {MEND_BOTH}", stacklevel=2
        )
    try:
        import onnxruntime
    except ImportError as problem:
        remedy = MEND_BOTH if len(installed) == 2 else "pip install 'musiq[cpu]'  (or 'musiq[gpu]' for CUDA)"
        raise MusiqError(f"ONNX Runtime cannot be imported ({problem}): {remedy}.") from problem
    module: ModuleType = onnxruntime
    return module


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _open(ort: Any, path: Path, device: str, threads: int) -> Any:
    wanted = device if device != "auto" else ("cuda" if cuda_may_work(ort) else "cpu")
    try:
        return _session(ort, path, wanted, threads)
    except MusiqError:
        if device == "auto" and wanted == "cuda":
            return _session(ort, path, "cpu", threads)
        raise


def cuda_may_work(ort: Any) -> bool:
    """Whether this onnxruntime has CUDA and the machine has NVIDIA's driver; only a session tells for sure."""
    return "CUDAExecutionProvider" in ort.get_available_providers() and Path("/dev/nvidiactl").exists()


def _session(ort: Any, path: Path, device: str, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors: reasons come back as exceptions, not as lines on stderr
    if device == "cpu":
        providers: list[Any] = ["CPUExecutionProvider"]
    else:
        _check_cuda(ort)
        # TF32 is off: "fp32" is fp32 in every runtime.
        providers = [
            ("CUDAExecutionProvider", {"device_id": cuda_index(device), "use_tf32": 0}),
            "CPUExecutionProvider",
        ]
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as problem:  # onnxruntime raises its own types for everything, none of them public
        raise MusiqError(f"ONNX Runtime cannot open {path} ({_first_line(problem)}). Export it again.") from problem
    session.disable_fallback()
    if device != "cpu" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise MusiqError(
            f"ONNX Runtime would run {path.name} on {session.get_providers()[0]}, not on {device}: "
            "the CUDA provider did not start. Check the driver with nvidia-smi, install the libraries with "
            "pip install 'musiq[gpu]', or use --device cpu."
        )
    return session


def _check_cuda(ort: Any) -> None:
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise MusiqError(
            "This onnxruntime has no CUDA provider (it has "
            f"{', '.join(ort.get_available_providers())}): pip uninstall -y onnxruntime; "
            "pip install 'musiq[gpu]', or use --device cpu."
        )
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN from the nvidia packages, where torch has not loaded them


def _first_line(problem: Exception) -> str:
    return str(problem).strip().splitlines()[0][:300] if str(problem).strip() else type(problem).__name__
