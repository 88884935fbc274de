"""Runs ONNX files in ONNX Runtime, on CPU, CUDA or its TensorRT provider, without torch."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from musiq import hardware
from musiq.errors import MusiqError, one_line, pip_install
from musiq.hardware import available_cpus
from musiq.runtimes import cuda, onnxruntime_cuda
from musiq.runtimes.base import Images, RuntimeOptions, Scores
from musiq.runtimes.batching import Feed
from musiq.runtimes.concurrency import IN_FLIGHT, not_closed


def reinstall() -> str:
    """What to do where two packages overwrote each other."""
    return f"pip uninstall -y onnxruntime onnxruntime-gpu  and then  {pip_install('gpu')}  (or [cpu])"


class OnnxRuntime:
    """ONNX Runtime; safe to call from several threads. Fails closed: asked for a GPU, it never runs on the CPU quietly.

    On a GPU images and scores travel through pinned memory bound to the graph, two calls at a time
    (`onnxruntime_cuda.BoundSession`).
    """

    def __init__(self, path: Path, options: RuntimeOptions) -> None:
        ort = import_onnxruntime()
        threads = options.threads or available_cpus()
        # For throughput each of the threads runs a call of its own, so that none waits for another's part.
        session, device = _open(ort, path, options, 1 if options.throughput else threads)
        self.provider: str = session.get_providers()[0]
        self._feed = Feed.from_metadata(session.get_modelmeta().custom_metadata_map, path)
        self.spec = self._feed.spec
        at_once = threads if options.throughput else 1
        on_cpu = device == "cpu"
        self._call = PlainSession(session, at_once) if on_cpu else _on_gpu(ort, session, device, self._feed, path)
        self.in_flight = self._call.in_flight
        self.default_batch = self._feed.default_batch(threads if on_cpu else None, at_once)
        self.call_shares = self._feed.call_shares

    def __call__(self, images: Images | Sequence[Images]) -> Scores:
        return self.run(images)["score"]

    def run(self, images: Images | Sequence[Images]) -> dict[str, Scores]:
        return self._feed.run(images, self._call)

    def close(self) -> None:
        """Frees the session once the calls that run are done."""
        self._call.close()


class PlainSession:
    """Calls through `session.run`, as many at once as there are."""

    def __init__(self, session: Any, in_flight: int = 1) -> None:
        self._session, self.in_flight = session, in_flight
        self._inputs = [put.name for put in session.get_inputs()]

    def __call__(self, arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        session = not_closed(self._session)
        outputs: list[NDArray[Any]] = session.run(None, dict(zip(self._inputs, arrays, strict=True)))
        return outputs

    def close(self) -> None:
        self._session = None


def _on_gpu(ort: Any, session: Any, device: str, feed: Feed, path: Path) -> Any:
    graph = device.partition(":")[0] == "cuda-graph"
    if graph and feed.has_open_sizes:
        how = (
            "--padded --tokens 1024" if feed.takes_patches else "--inputs patches --padded --tokens 1024, or one --size"
        )
        raise MusiqError(
            f"{path.name} takes images of any size, and a CUDA graph replays one: export it for one number of tokens and a "
            f"fixed batch (musiq-export {how}, --batch 8), or use --device cuda:0."
        )
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
        return PlainSession(session, IN_FLIGHT)
    return onnxruntime_cuda.BoundSession(ort, session, device, feed)


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime, or a MusiqError with its install line; warns where both of its packages overwrote each other."""
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) == 2:
        warnings.warn(
            f"onnxruntime and onnxruntime-gpu are both installed and overwrite each other: {reinstall()}", stacklevel=2
        )
    try:
        import onnxruntime
    except ImportError as problem:
        remedy = reinstall() if len(installed) == 2 else f"{pip_install('cpu')}  (or [gpu] for CUDA)"
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
    return "CUDAExecutionProvider" in ort.get_available_providers() and not hardware.why_no_driver()


def _open(ort: Any, path: Path, options: RuntimeOptions, threads: int) -> tuple[Any, str]:
    """A session, and the device that it is on: never "auto"."""
    device, record = options.device, options.record
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
    # A pattern is one block for a whole call, in an arena that grows by powers of two: half as much memory again, and no
    # time gained.
    options.enable_mem_pattern = False
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as problem:  # onnxruntime raises its own types for everything, none of them public
        raise MusiqError(f"ONNX Runtime cannot open {path} ({one_line(problem)}). Export it again.") from problem
