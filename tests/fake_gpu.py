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
    """An ONNX file behind an engine's interface, with a profile of up to `largest` images."""

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
        types = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(int32)": "int32"}
        return types[self.tensors[name].type]

    def create_execution_context(self) -> FakeContext:
        return FakeContext(self)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.batch = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.inside = threading.Lock()

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address in self.engine.cuda.blocks

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.batch, self.shapes[name] = shape[0], shape
        return shape[0] <= self.engine.largest

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes.get(name) or (self.batch, *self.engine.get_tensor_shape(name)[1:])

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


class FakeCudaSession:
    """An ONNX file behind a CUDA session's interface: it reads and writes at bound addresses alone, and replays a graph
    only in the thread that captured it, one at a time, at the addresses of the capture."""

    def __init__(self, source: str, providers: list[Any], cuda: FakeCuda) -> None:
        self.session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        self.get_inputs, self.get_outputs = self.session.get_inputs, self.session.get_outputs
        self.get_modelmeta = self.session.get_modelmeta
        self.names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        self.graphs = any("enable_cuda_graph" in provider[1] for provider in providers if isinstance(provider, tuple))
        self.cuda = cuda
        self.captured: dict[str, tuple[int, Any]] = {}
        self.runs: list[tuple[str, int]] = []
        self.running = self.most_at_once = 0
        self.changed = threading.Condition()
        self.at_once = 1
        """Each run waits until so many have been in at once."""

    def get_providers(self) -> list[str]:
        return self.names

    def run(self, names: None, inputs: dict[str, Any]) -> list[Any]:
        outputs: list[Any] = self.session.run(names, inputs)
        return outputs

    def io_binding(self) -> FakeBinding:
        return FakeBinding()

    def run_with_iobinding(self, binding: FakeBinding, options: Any) -> None:
        self._meet()
        graph = options.entries.get("gpu_graph_id", "")
        assert bool(graph) == self.graphs
        if graph:
            state = threading.get_ident(), dict(binding.bound)
            assert self.captured.setdefault(graph, state) == state, "another thread, or other addresses"
        inputs = {put.name: self._at(binding, put.name) for put in self.get_inputs()}
        outputs = [put.name for put in self.get_outputs()]
        for name, value in zip(outputs, self.session.run(outputs, inputs), strict=True):
            self._at(binding, name)[...] = value
        self.runs.append((graph, len(next(iter(inputs.values())))))
        with self.changed:
            self.running -= 1

    def _meet(self) -> None:
        with self.changed:
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.most_at_once >= self.at_once, 20), "nobody else came in"

    def _at(self, binding: FakeBinding, name: str) -> Any:
        dtype, shape, address = binding.bound[name]
        return np.frombuffer(self.cuda.blocks[address], dtype, int(np.prod(shape))).reshape(shape)


class FakeBinding:
    def __init__(self) -> None:
        self.bound: dict[str, tuple[Any, tuple[int, ...], int]] = {}

    def bind_input(self, name: str, device: str, index: int, dtype: Any, shape: tuple[int, ...], address: int) -> None:
        assert (device, index) == ("cuda", 0)
        self.bound[name] = dtype, tuple(shape), address

    bind_output = bind_input


class FakeRunOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value
