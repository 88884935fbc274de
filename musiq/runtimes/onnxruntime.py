"""An ONNX file in ONNX Runtime, on CPU, CUDA or its TensorRT provider, without torch."""

from __future__ import annotations

import importlib.metadata
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from musiq.artifact import Record
from musiq.errors import MusiqError
from musiq.hardware import available_cpus
from musiq.runtimes.base import Images, Scores
from musiq.runtimes.batching import Feed
from musiq.runtimes.concurrency import IN_FLIGHT, opened

MEND_BOTH = "pip uninstall -y onnxruntime onnxruntime-gpu  and then  pip install 'musiq[gpu]'  (or 'musiq[cpu]')"


class OrtRuntime:
    """ONNX Runtime; safe to call from several threads. Fails closed: asked for a GPU, it never runs on the CPU quietly.

    On a GPU images and scores travel through pinned memory bound to the graph, two calls at a time (`ort_gpu.Bound`).
    """

    def __init__(
        self,
        path: Path,
        device: str = "auto",
        threads: int | None = None,
        record: Record | None = None,
        throughput: bool = False,
    ) -> None:
        """`throughput`: on a CPU each of the `threads` runs a call of its own, so that none waits for another's part."""
        ort = import_onnxruntime()
        threads = threads or available_cpus()
        session, place = _open(ort, path, device, 1 if throughput else threads, record)
        self.provider: str = session.get_providers()[0]
        self._feed = Feed.from_metadata(session.get_modelmeta().custom_metadata_map, path)
        self.spec = self._feed.spec
        at_once = threads if throughput else 1
        self._caller = Plain(session, at_once) if place == "cpu" else _on_gpu(ort, session, place, self._feed, path)
        self.in_flight = self._caller.in_flight
        self.default_batch = self._feed.default_batch(threads if place == "cpu" else None, at_once)

    def __call__(self, images: Images) -> Scores:
        return self.run(images)["score"]

    def run(self, images: Images) -> dict[str, Scores]:
        return self._feed.run(images, self._caller)

    def close(self) -> None:
        """Frees the session once the calls that run are done."""
        self._caller.close()


class Plain:
    """Calls through `session.run`, as many at once as there are."""

    def __init__(self, session: Any, in_flight: int = 1) -> None:
        self._session, self.in_flight = session, in_flight
        self._inputs = [put.name for put in session.get_inputs()]

    def __call__(self, arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        session = opened(self._session)
        outputs: list[NDArray[Any]] = session.run(None, dict(zip(self._inputs, arrays, strict=True)))
        return outputs

    def close(self) -> None:
        self._session = None


def _on_gpu(ort: Any, session: Any, device: str, feed: Feed, path: Path) -> Any:
    from musiq.runtimes import cuda, onnxruntime_cuda

    graph = device.partition(":")[0] == "cuda-graph"
    if graph and not feed.is_static:
        raise MusiqError(
            f"{path.name} takes batches of any size, and a CUDA graph replays one: export it with a fixed batch "
            "(musiq-export --batch 8), or use --device cuda:0."
        )
    try:
        cuda.import_cuda()
    except MusiqError as problem:
        if graph:
            raise
        warnings.warn(f"Images go to the GPU without pinned memory, which is slower: {problem}", stacklevel=2)
        return Plain(session, IN_FLIGHT)
    return onnxruntime_cuda.Bound(ort, session, device, feed)


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


def cuda_may_work(ort: Any) -> bool:
    """Whether this onnxruntime has CUDA and the machine has NVIDIA's driver; only a session tells for sure."""
    from musiq import hardware

    return "CUDAExecutionProvider" in ort.get_available_providers() and not hardware.why_no_driver()


def _open(ort: Any, path: Path, device: str, threads: int, record: Record | None) -> tuple[Any, str]:
    """A session, and the device that it is on: never "auto"."""
    from musiq.runtimes import onnxruntime_cuda

    if device == "auto" and cuda_may_work(ort):
        try:
            return onnxruntime_cuda.session(ort, path, "cuda", session_options(ort, threads), record), "cuda"
        except MusiqError as problem:
            warnings.warn(f"{problem} Here the CPU is used.", stacklevel=2)
    if device in ("auto", "cpu"):
        return cpu_session(ort, path, session_options(ort, threads)), "cpu"
    return onnxruntime_cuda.session(ort, path, device, session_options(ort, threads), record), device


def session_options(ort: Any, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # fatal ones alone: reasons come back as exceptions, not as lines on stderr
    return options


def cpu_session(ort: Any, path: Path, options: Any) -> Any:
    # A pattern is one block for a whole call, in an arena that grows by powers of two: 839 MiB at most for `musiq` at
    # 1024x768 where 536 do, and 5.1 GiB instead of 3.1 at batch 8, in the same time (ratio 1.00-1.02).
    options.enable_mem_pattern = False
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as problem:  # onnxruntime raises its own types for everything, none of them public
        raise MusiqError(f"ONNX Runtime cannot open {path} ({first_line(problem)}). Export it again.") from problem


def first_line(problem: Exception) -> str:
    return str(problem).strip().splitlines()[0][:300] if str(problem).strip() else type(problem).__name__
