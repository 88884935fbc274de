"""A GPU of ordinary memory and an engine that is an ONNX file: what the engines' runtime does, seen without a GPU.

Work that is put on a stream is done when the stream is waited for, never earlier, so that a missing wait shows.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime


class Stream:
    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def __int__(self) -> int:
        return id(self)


class FakeCuda:
    """The functions of cuda.bindings.runtime that are used, on addresses that hold real memory."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    def __init__(self, memory_bytes: int = 1 << 30) -> None:
        self.blocks: dict[int, Any] = {}
        self.streams: dict[int, Stream] = {}
        self.left = memory_bytes
        self._device = threading.local()

    def cudaDriverGetVersion(self) -> tuple[int, int]:  # noqa: N802
        return 0, 13000

    def cudaGetDeviceCount(self) -> tuple[int, int]:  # noqa: N802
        return 0, 1

    def cudaGetDeviceProperties(self, index: int) -> tuple[int, Any]:  # noqa: N802
        return 0, SimpleNamespace(name=b"Fake RTX 3060\0\0", major=8, minor=6)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:  # noqa: N802
        return 0, b"out of memory"

    def cudaSetDevice(self, index: int) -> tuple[int]:  # noqa: N802
        self._device.index = index
        return (0,)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        if size > self.left:
            return 2, 0
        self.left -= size
        block = (ctypes.c_uint8 * size)()
        self.blocks[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    cudaMallocHost = cudaMalloc  # noqa: N815

    def cudaFree(self, address: int) -> tuple[int]:  # noqa: N802
        del self.blocks[address]
        return (0,)

    cudaFreeHost = cudaFree  # noqa: N815

    def cudaStreamCreate(self) -> tuple[int, Stream]:  # noqa: N802
        stream = Stream()
        self.streams[int(stream)] = stream
        return 0, stream

    def cudaStreamDestroy(self, stream: Stream) -> tuple[int]:  # noqa: N802
        del self.streams[int(stream)]
        return (0,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: Stream) -> tuple[int]:  # noqa: N802
        assert self._device.index == 0  # of this thread
        stream.work.append(lambda: ctypes.memmove(to, source, size) and None)
        return (0,)

    def cudaStreamSynchronize(self, stream: Stream) -> tuple[int]:  # noqa: N802
        while stream.work:
            stream.work.pop(0)()
        return (0,)


class FakeEngine:
    """An ONNX file behind an engine's interface, with a profile of up to `largest` pictures."""

    def __init__(self, source: Path, largest: int, cuda: FakeCuda) -> None:
        self.session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
        self.tensors = {tensor.name: tensor for tensor in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.num_io_tensors = len(self.tensors)
        self.largest, self.cuda = largest, cuda
        self.batches: list[int] = []

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.tensors[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(batch, *self.get_tensor_shape(name)[1:]) for batch in (1, self.largest, self.largest)]

    def get_tensor_dtype(self, name: str) -> str:
        return {"tensor(uint8)": "uint8", "tensor(float)": "float32"}[self.tensors[name].type]

    def create_execution_context(self) -> FakeContext:
        return FakeContext(self)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.batch = 0
        self.inside = threading.Lock()

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address in self.engine.cuda.blocks

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0]
        return shape[0] <= self.engine.largest

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.batch, *self.engine.get_tensor_shape(name)[1:])

    def execute_async_v3(self, stream: int) -> bool:
        self.engine.cuda.streams[stream].work.append(self._execute)
        return True

    def _execute(self) -> None:
        assert self.inside.acquire(blocking=False), "two threads are in one execution context"
        session = self.engine.session
        inputs = {tensor.name: self._at(tensor.name) for tensor in session.get_inputs()}
        names = [tensor.name for tensor in session.get_outputs()]
        for name, value in zip(names, session.run(names, inputs), strict=True):
            self._at(name)[...] = value
        self.engine.batches.append(self.batch)
        self.inside.release()

    def _at(self, name: str) -> Any:
        block = self.engine.cuda.blocks[self.addresses[name]]
        shape, dtype = self.get_tensor_shape(name), np.dtype(self.engine.get_tensor_dtype(name))
        return np.frombuffer(block, dtype, int(np.prod(shape))).reshape(shape)


def fake_tensorrt(engine: FakeEngine | None, version: str = "10.13.0", complaint: str = "") -> Any:
    """A module with what the runtime uses of `tensorrt`; without an engine nothing can be deserialised."""

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, WARNING=2)

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
            if engine is None:
                self.log.log(1, complaint)
            return engine

    return SimpleNamespace(ILogger=ILogger, Runtime=Runtime, __version__=version, nptype=np.dtype, __name__="tensorrt")
