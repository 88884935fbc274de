"""Runs engines in TensorRT or in TensorRT for RTX, without torch. What cannot run on the GPU does not run."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musiq import artifact
from musiq.artifact import Record
from musiq.errors import MusiqError, one_line, pip_install
from musiq.file_formats import FILE_FORMATS
from musiq.runtimes import cuda
from musiq.runtimes.base import Images, RuntimeOptions, Scores
from musiq.runtimes.batching import OUTPUTS, Feed
from musiq.runtimes.concurrency import IN_FLIGHT, Pool

TITLES = {"tensorrt": FILE_FORMATS["trt"].runtime, "tensorrt_rtx": FILE_FORMATS["trt-rtx"].runtime}
"""What the two packages are called."""

INSTALL = {
    "tensorrt": f"{pip_install('tensorrt')} (its libraries come from https://pypi.nvidia.com)",
    "tensorrt_rtx": pip_install("tensorrt-rtx"),
}
MESSAGES = 3
"""Messages of a failed step that an error repeats."""


class TensorRtRuntime:
    """Everything about the model comes from the record beside the engine. Safe to call from several threads: two calls
    run at a time, each with an execution context, a stream and buffers of its own, the others wait. The second context
    doubles the working memory, not the weights; where there is no room for it, calls go one by one (`in_flight` 1)."""

    def __init__(self, path: Path, options: RuntimeOptions, package: str = "tensorrt") -> None:
        if options.device == "cpu":
            raise MusiqError(
                f"{path.name} is an engine and runs on an NVIDIA GPU alone: use an ONNX export on the CPU."
            )
        trt = import_tensorrt(package)
        record = required(path, options.record)
        check_version(path, record, trt, package)
        gpu = cuda.find(options.device)
        self.spec = record.spec
        self.provider = f"{TITLES[package]} {trt.__version__} {gpu.name}"
        self._feed = Feed.from_record(record)
        self._log = make_logger(trt)
        cuda.call(cuda.import_cuda().cudaSetDevice, gpu.index)
        runtime = trt.Runtime(self._log)
        if record.details.compatible:
            # Such an engine carries the code that newer versions run it with; the record's hash vouches for it.
            runtime.engine_host_code_allowed = True
        engine = deserialise(runtime, path, record, self._log, gpu)
        contexts = [ExecutionContext(trt, engine, self._feed, gpu, self._log)]
        with suppress(MusiqError):  # no room for another
            contexts += [ExecutionContext(trt, engine, self._feed, gpu, self._log) for _ in range(IN_FLIGHT - 1)]
        self._contexts = Pool(contexts)
        self.in_flight = len(contexts)
        self.default_batch = self._feed.default_batch(None)
        self.call_shares = self._feed.call_shares

    def __call__(self, images: Images | Sequence[Images]) -> Scores:
        return self.run(images)["score"]

    def run(self, images: Images | Sequence[Images]) -> dict[str, Scores]:
        return self._feed.run(images, self._call)

    def _call(self, arrays: list[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        with self._contexts.one() as context:
            return context.run(arrays)

    def close(self) -> None:
        """Waits for calls that run. TensorRT frees an engine that no name holds any more."""
        for context in self._contexts.close():
            context.free()


class ExecutionContext:
    """TensorRT's, with a stream and buffers: for the largest batch, or where sizes are open for the largest that came. One
    call at a time."""

    def __init__(self, trt: Any, engine: Any, feed: Feed, gpu: cuda.Gpu, log: Any) -> None:
        self._engine, self._log, self._gpu = engine, log, gpu
        self._stream = cuda.Stream(gpu.index)
        self._addresses: dict[str, int] = {}
        with ExitStack() as on_error:
            on_error.callback(self.free)
            self._context = engine.create_execution_context()
            if self._context is None:
                raise MusiqError(
                    f"The engine finds no room to run on {gpu.name}: {log.reason()}. "
                    "Free the GPU, or export with a smaller --batch."
                )
            self._inputs = list(feed.shapes())
            self._outputs = [name for name in OUTPUTS if name in tensor_names(engine)]
            names = (*self._inputs, *self._outputs)
            self._dtypes = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
            largest = largest_batch(engine, self._inputs[0])
            for name in self._outputs if feed.has_open_sizes else names:
                self._reserve(name, (largest, *engine.get_tensor_shape(name)[1:]))
            on_error.pop_all()

    def run(self, arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        self._stream.enter()
        for name, array in zip(self._inputs, arrays, strict=True):
            self._reserve(name, array.shape)
            self._stream.upload(name, array)
            self._check(self._context.set_input_shape(name, array.shape))
        self._check(self._context.execute_async_v3(int(self._stream.handle)))
        return self._stream.download({name: tuple(self._context.get_tensor_shape(name)) for name in self._outputs})

    def _reserve(self, name: str, shape: tuple[int, ...]) -> None:
        """Have room for a tensor, at the address that the engine knows."""
        address = self._stream.buffer(name, shape, self._dtypes[name]).device
        if self._addresses.get(name) != address:
            self._check(self._context.set_tensor_address(name, address))
            self._addresses[name] = address

    def free(self) -> None:
        self._context = self._engine = None  # in this order, and before the stream goes
        self._stream.free()

    def _check(self, done: bool) -> None:
        if not done:
            raise MusiqError(
                f"{self._gpu.name} could not run the engine: {self._log.reason()}. Export it again on this machine."
            )


def largest_batch(engine: Any, first: str) -> int:
    """The first input's batch, or the largest in the engine's profile."""
    batch: int = engine.get_tensor_shape(first)[0]
    return batch if batch >= 0 else int(engine.get_tensor_profile_shape(first, 0)[2][0])


def import_tensorrt(package: str) -> ModuleType:
    """`tensorrt` or `tensorrt_rtx`, which share one API, or a MusiqError with the install line."""
    try:
        return importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as problem:  # its libraries may be missing while it is there
        raise MusiqError(
            f"{TITLES[package]} cannot be imported ({one_line(problem)}): {INSTALL[package]}."
        ) from problem


def make_logger(trt: Any) -> Any:
    """A logger that prints nothing and keeps what TensorRT says, because its functions answer a failure with None."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=MESSAGES)
            self.warnings: deque[str] = deque(maxlen=MESSAGES)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.errors.append(" ".join(message.split()))
            elif int(severity) == int(trt.ILogger.Severity.WARNING):
                self.warnings.append(" ".join(message.split()))

        def reason(self) -> str:
            return "; ".join(dict.fromkeys(self.errors or self.warnings))[:800].rstrip(" .") or "it did not say why"

    return Logger()


def required(path: Path, record: Record | None) -> Record:
    """The record of an engine, without which nothing is known of it. Raises MusiqError where there is none."""
    if record is None:
        raise MusiqError(
            f"{path} has no record {artifact.record_path(path).name} beside it, and an engine does not say what model "
            "it is: copy the record along with it, or export the model again."
        )
    return record


def check_version(path: Path, record: Record, trt: Any, package: str) -> None:
    """An engine runs in the very version that built it, or in a newer one if it was built with --compatible."""
    built, here = record.versions.get(package), trt.__version__
    if built is None:
        raise MusiqError(
            f"{path.name} was not built by {TITLES[package]}: the name of a {record.format} file is another."
        )
    if built == here or (record.details.compatible and numbers(here) >= numbers(built)):
        return
    raise MusiqError(
        f"{path.name} was built by {TITLES[package]} {built} and here is {here}, which cannot read it: "
        f"pip install '{package.replace('_', '-')}=={built}', or export the model again."
    )


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def deserialise(runtime: Any, path: Path, record: Record, log: Any, gpu: cuda.Gpu) -> Any:
    """The engine of a plan file. Raises MusiqError with TensorRT's own words where it does not run on this GPU."""
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        targets = ", ".join(f"SM{target}" for target in record.details.gpus) or "another GPU"
        raise MusiqError(
            f"{path.name} does not run on {gpu.name} (SM{gpu.capability}): it was built for {targets}. "
            f"TensorRT says: {log.reason()}. Export it for this GPU."
        )
    return engine


def tensor_names(engine: Any) -> list[str]:
    return [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
