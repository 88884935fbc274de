"""An engine in TensorRT or in TensorRT for RTX, without torch. Fails closed: what cannot run on the GPU does not run."""

from __future__ import annotations

import importlib
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musiq import artifact
from musiq.artifact import Record
from musiq.errors import MusiqError
from musiq.runtimes import Images, Scores, gpu
from musiq.runtimes.feed import OUTPUTS, Feed

TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
INSTALL = {
    "tensorrt": "pip install 'musiq[tensorrt]' (its libraries come from https://pypi.nvidia.com)",
    "tensorrt_rtx": "pip install 'musiq[tensorrt-rtx]'",
}
SAID = 3  # messages of a failed step that an error repeats


class TensorRtRuntime:
    """Everything about the model comes from the record beside the engine. Safe to call from several threads: an
    execution context serves one caller at a time, so a lock lets them in one by one."""

    def __init__(self, path: Path, device: str, package: str, record: Record | None) -> None:
        if device == "cpu":
            raise MusiqError(
                f"{path.name} is an engine and runs on an NVIDIA GPU alone: use an ONNX export on the CPU."
            )
        trt = import_tensorrt(package)
        record = known(path, record)
        check_version(path, record, trt, package)
        found = gpu.find(device)
        self.spec = record.spec
        self.provider = f"{TITLES[package]} {trt.__version__} {found.name}"
        self._feed = Feed(record.spec, record.inputs, *record.batch)
        self._names = ["image"] if record.inputs == "image" else [scale.name for scale in record.spec.scales]
        self._gpu, self._lock, self._log = found, threading.Lock(), make_logger(trt)
        with ExitStack() as resources:
            self._open(trt, path, record, resources)
            self._resources = resources.pop_all()

    def _open(self, trt: Any, path: Path, record: Record, resources: ExitStack) -> None:
        self._cuda = gpu.import_cuda()
        gpu.call(self._cuda.cudaSetDevice, self._gpu.index)
        runtime = trt.Runtime(self._log)
        if record.details.get("compatible"):
            # Such an engine carries the code that newer versions run it with; the record's hash vouches for it.
            runtime.engine_host_code_allowed = True
        self._engine = deserialise(runtime, path, record, self._log, self._gpu)
        self._stream = gpu.call(self._cuda.cudaStreamCreate)
        resources.callback(self._cuda.cudaStreamDestroy, self._stream)
        resources.callback(self._forget)  # before the stream goes
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise MusiqError(
                f"{path.name} finds no room to run on {self._gpu.name}: {self._log.said()}. "
                "Free the GPU, or export with a smaller --batch."
            )
        self._outputs = [name for name in OUTPUTS if name in tensor_names(self._engine)]
        self._buffers = {}
        for name in (*self._names, *self._outputs):
            buffer = gpu.Buffer(self._largest(trt, name), np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))))
            resources.callback(buffer.free)
            self._must(self._context.set_tensor_address(name, buffer.device))
            self._buffers[name] = buffer

    def _largest(self, trt: Any, name: str) -> tuple[int, ...]:
        """The shape that a tensor has in the largest batch of the engine's profile."""
        _, *shape = self._engine.get_tensor_shape(name)
        first = self._names[0]
        batch = self._engine.get_tensor_shape(first)[0]
        if batch < 0:
            batch = self._engine.get_tensor_profile_shape(first, 0)[2][0]
        return (batch, *shape)

    def _forget(self) -> None:
        """TensorRT frees what no name holds any more: the context before its engine."""
        self._context = None
        self._engine = None

    def __call__(self, images: Images) -> Scores:
        return self.run(images)["score"]

    def run(self, images: Images) -> dict[str, Scores]:
        return self._feed.run(images, self._call)

    def _call(self, arrays: list[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        with self._lock:
            if self._context is None:
                raise MusiqError("This engine was closed. Open it again with musiq.load.")
            gpu.call(self._cuda.cudaSetDevice, self._gpu.index)  # the current device is each thread's own
            for name, array in zip(self._names, arrays, strict=True):
                self._buffers[name].upload(array, self._stream)
                self._must(self._context.set_input_shape(name, array.shape))
            self._must(self._context.execute_async_v3(int(self._stream)))
            shapes = [tuple(self._context.get_tensor_shape(name)) for name in self._outputs]
            views = [
                self._buffers[name].download(shape, self._stream)
                for name, shape in zip(self._outputs, shapes, strict=True)
            ]
            gpu.call(self._cuda.cudaStreamSynchronize, self._stream)
            return [view.copy() for view in views]

    def _must(self, done: bool) -> None:
        if not done:
            raise MusiqError(
                f"{self.provider} could not run the engine: {self._log.said()}. Export it again on this machine."
            )

    def close(self) -> None:
        with self._lock:
            self._resources.close()


def import_tensorrt(package: str) -> ModuleType:
    """`tensorrt` or `tensorrt_rtx`, which share one API, or a MusiqError with the install line."""
    try:
        return importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as problem:  # its libraries may be missing while it is there
        reason = str(problem).strip().splitlines()[0]
        raise MusiqError(f"{TITLES[package]} cannot be imported ({reason}): {INSTALL[package]}.") from problem


def make_logger(trt: Any) -> Any:
    """A logger that prints nothing and keeps what TensorRT says, because its functions answer a failure with None."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=SAID)
            self.warnings: deque[str] = deque(maxlen=SAID)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.errors.append(" ".join(message.split()))
            elif int(severity) == int(trt.ILogger.Severity.WARNING):
                self.warnings.append(" ".join(message.split()))

        def said(self) -> str:
            return "; ".join(dict.fromkeys(self.errors or self.warnings))[:800].rstrip(" .") or "it did not say why"

    return Logger()


def known(path: Path, record: Record | None) -> Record:
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
    if built == here or (record.details.get("compatible") and numbers(here) >= numbers(built)):
        return
    raise MusiqError(
        f"{path.name} was built by {TITLES[package]} {built} and here is {here}, which cannot read it: "
        f"pip install '{package.replace('_', '-')}=={built}', or export the model again."
    )


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def deserialise(runtime: Any, path: Path, record: Record, log: Any, found: gpu.Gpu) -> Any:
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        targets = ", ".join(f"SM{target}" for target in record.details.get("gpus", ())) or "another GPU"
        raise MusiqError(
            f"{path.name} does not run on {found.name} (SM{found.capability}): it was built for {targets}. "
            f"TensorRT says: {log.said()}. Export it for this GPU."
        )
    return engine


def tensor_names(engine: Any) -> list[str]:
    return [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
