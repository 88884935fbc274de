"""Runs ONNX Runtime on a GPU: sessions that start there or say why not, pinned memory bound to them, CUDA graphs."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musiq import hardware
from musiq.artifact import Record
from musiq.errors import MusiqError, pip_install
from musiq.hardware import cuda_index
from musiq.runtimes import cuda
from musiq.runtimes.batching import Feed
from musiq.runtimes.concurrency import IN_FLIGHT, Pool

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def session(ort: Any, path: Path, device: str, options: Any, record: Record | None) -> Any:
    """A session on "cuda:0", "cuda-graph:0" or "tensorrt:0". Raises MusiqError, with the reason, where it would run
    elsewhere."""
    wanted = TENSORRT if device.startswith("tensorrt") else CUDA
    if wanted not in ort.get_available_providers():
        raise MusiqError(
            f"This onnxruntime has no {wanted} (it has {', '.join(ort.get_available_providers())}): "
            f"pip uninstall -y onnxruntime; {pip_install('gpu')}, or use --device cpu."
        )
    _preload(ort)
    with _quiet(ort):
        try:
            made = ort.InferenceSession(str(path), options, providers=providers(device, record), enable_fallback=0)
        except Exception as problem:  # onnxruntime raises its own types for everything, none of them public
            reason, remedy = why_not(ort, wanted) or (" ".join(str(problem).split())[:300], UNKNOWN)
            raise MusiqError(f"ONNX Runtime cannot open {path.name} on {device}: {reason}. {remedy}") from problem
    if made.get_providers()[0] != wanted:  # a provider that cannot start is left out, without an exception
        reason, remedy = why_not(ort, wanted) or (f"{wanted} did not start, and it did not say why", UNKNOWN)
        raise MusiqError(
            f"ONNX Runtime would run {path.name} on {made.get_providers()[0]}, not on {device}: {reason}. {remedy}"
        )
    return made


UNKNOWN = "Look at the GPU with nvidia-smi; if the file does not open with --device cpu either, export it again."


def providers(device: str, record: Record | None) -> list[Any]:
    """What ONNX Runtime is asked for, the best first; the rest is for operators that the best one does not have."""
    index = cuda_index(device)
    # TF32 is off: "fp32" is fp32 in every runtime.
    cuda_options: dict[str, Any] = {"device_id": index, "use_tf32": 0}
    if record is not None and Feed.from_record(record).has_open_sizes:
        # The default tries every algorithm of each convolution, anew for each shape.
        cuda_options["cudnn_conv_algo_search"] = "HEURISTIC"
    if device.startswith("cuda-graph"):
        cuda_options["enable_cuda_graph"] = 1
    wanted: list[Any] = [(CUDA, cuda_options), CPU]
    if device.startswith("tensorrt"):
        wanted.insert(0, (TENSORRT, {"device_id": index, **tensorrt_options(record)}))
    return wanted


def tensorrt_options(record: Record | None) -> dict[str, Any]:
    """Engines are kept between runs, because building one takes minutes; with a batch range they are built once for all
    of it. fp16 and bf16 kernels are allowed for artifacts of that precision alone. For TF32, which TensorRT may multiply
    fp32 in, ONNX Runtime has no switch: NVIDIA_TF32_OVERRIDE=0 in the environment is NVIDIA's."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "musiq" / "tensorrt"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    options: dict[str, Any] = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(folder)}
    if record is None:
        return options
    if record.precision in ("fp16", "bf16"):
        options[f"trt_{record.precision}_enable"] = True
    feed = Feed.from_record(record)
    fewest, most = feed.tokens
    has_limits = feed.largest and (most or not feed.has_open_sizes)
    if has_limits and (feed.has_open_sizes or not feed.is_static):
        for name, batch, tokens in (
            ("min", feed.smallest, fewest),
            ("opt", feed.largest, most),
            ("max", feed.largest, most),
        ):
            shapes = ((put, "x".join(map(str, (batch, *shape)))) for put, shape in feed.shapes(tokens).items())
            options[f"trt_profile_{name}_shapes"] = ",".join(f"{put}:{shape}" for put, shape in shapes)
    return options


def _preload(ort: Any) -> None:
    """CUDA and cuDNN from the nvidia packages, where torch has not loaded them. What is missing it prints on standard
    output, which belongs to the rows; `why_not` says it."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()


@contextlib.contextmanager
def _quiet(ort: Any) -> Iterator[None]:
    """Off standard error, too, with why a provider did not start: the error says it."""
    ort.set_default_logger_severity(4)
    try:
        yield
    finally:
        ort.set_default_logger_severity(2)  # ONNX Runtime's own default


def why_not(ort: Any, provider: str) -> tuple[str, str] | None:
    """Why a provider cannot start on this machine and what to do; None where nothing is seen to be missing."""
    driver, library = hardware.why_no_driver(), why_no_library(ort, provider)
    if not (driver or library):
        return None
    remedies = []
    if driver:
        remedies.append("run it where nvidia-smi lists a GPU")
    if library:
        remedies.append(pip_install("gpu"))
        if provider == TENSORRT:
            remedies.append("put TensorRT's libraries on LD_LIBRARY_PATH")
    return " and ".join(filter(None, (driver, library))), f"To do: {', '.join(remedies)}, or use --device cpu."


def why_no_library(ort: Any, provider: str) -> str:
    """Which library a provider lacks, in the loader's words; empty where all are there."""
    folder = Path(ort.__file__).parent / "capi"
    start, end = ("", ".dll") if os.name == "nt" else ("lib", ".so")
    name = "tensorrt" if provider == TENSORRT else "cuda"
    try:
        for part in ("shared", name):
            ctypes.CDLL(str(folder / f"{start}onnxruntime_providers_{part}{end}"), ctypes.RTLD_GLOBAL)
    except OSError as problem:
        if hardware.DRIVER in str(problem):
            return ""  # the driver's, which comes from no package
        return f"a library is missing ({str(problem).removeprefix(str(folder) + os.sep)})"
    return ""


class BoundSession:
    """Calls through memory that is bound to the session's inputs and outputs: two at a time, while one computes the
    other is copied; more of them wait. Buffers grow with the largest batch seen.

    A CUDA graph belongs to the thread that captured it and must not be replayed twice at once, so that one thread of our
    own runs them all; copies still overlap.
    """

    def __init__(self, ort: Any, session: Any, device: str, feed: Feed) -> None:
        graph = device.startswith("cuda-graph")
        self.in_flight = IN_FLIGHT
        self._graphs = ThreadPoolExecutor(1, thread_name_prefix="musiq-graph") if graph else None
        bindings = []
        for number in range(1, IN_FLIGHT + 1):
            options = ort.RunOptions()
            if graph:
                options.add_run_config_entry("gpu_graph_id", str(number))  # the addresses of each binding are its own
            bindings.append(IoBinding(session, cuda_index(device), options, self._graphs))
        self._bindings = Pool(bindings)
        if graph:
            self._capture(feed, bindings)

    def _capture(self, feed: Feed, bindings: list[IoBinding]) -> None:
        """At opening, so that what cannot be captured is known then, and no later call is slow."""
        try:
            for binding in bindings:
                binding.run(feed.zeros(feed.largest))
        except Exception as problem:
            self.close()
            raise MusiqError(
                f"ONNX Runtime cannot make a CUDA graph of this model ({' '.join(str(problem).split())[:300]}). "
                "Use --device cuda:0."
            ) from problem

    def __call__(self, arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        with self._bindings.one() as binding:
            return binding.run(arrays)

    def close(self) -> None:
        for binding in self._bindings.close():
            binding.free()
        if self._graphs is not None:
            self._graphs.shutdown()


class IoBinding:
    """A session's inputs and outputs in memory of its own, for one call at a time."""

    def __init__(self, session: Any, index: int, options: Any, graphs: ThreadPoolExecutor | None) -> None:
        self._session, self._index, self._options, self._graphs = session, index, options, graphs
        self._inputs = [put.name for put in session.get_inputs()]
        self._outputs = {put.name: (np.dtype(DTYPES[put.type]), tuple(put.shape[1:])) for put in session.get_outputs()}
        self._stream = cuda.Stream(index)
        self._binding: Any = None
        self._shapes: list[tuple[int, ...]] = []

    def run(self, arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        self._stream.enter()
        if [array.shape for array in arrays] != self._shapes:
            self._bind(arrays)
        for name, array in zip(self._inputs, arrays, strict=True):
            self._stream.upload(name, array)
        self._stream.wait()  # ONNX Runtime computes on a stream of its own
        if self._graphs is None:
            self._session.run_with_iobinding(self._binding, self._options)
        else:
            self._graphs.submit(self._session.run_with_iobinding, self._binding, self._options).result()
        # A run returns when the GPU is done, so the results are there.
        return self._stream.download({name: (len(arrays[0]), *tail) for name, (_, tail) in self._outputs.items()})

    def _bind(self, arrays: list[NDArray[Any]]) -> None:
        self._shapes, self._binding = [], self._session.io_binding()
        for name, array in zip(self._inputs, arrays, strict=True):
            address = self._stream.buffer(name, array.shape, array.dtype).device
            self._binding.bind_input(name, "cuda", self._index, array.dtype.type, array.shape, address)
        for name, (dtype, tail) in self._outputs.items():
            shape = (len(arrays[0]), *tail)
            address = self._stream.buffer(name, shape, dtype).device
            self._binding.bind_output(name, "cuda", self._index, dtype.type, shape, address)
        self._shapes = [array.shape for array in arrays]

    def free(self) -> None:
        self._binding = self._session = None
        self._stream.free()
