"""Calls CUDA through cuda-python, the little that a runtime needs: which GPU there is, streams, memory on both sides."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musiq.errors import MusiqError
from musiq.hardware import cuda_index


@dataclass(frozen=True)
class Gpu:
    """A CUDA device.

    Attributes:
        index: Its number, 1 for "cuda:1".
        name: As the driver says it.
        capability: Its compute capability without the dot: 86 for 8.6, which engines call SM86.
    """

    index: int
    name: str
    capability: int


def import_cuda() -> ModuleType:
    """cuda-python's bindings of the CUDA runtime, or a MusiqError with the install line."""
    try:
        from cuda.bindings import runtime  # type: ignore[import-untyped, unused-ignore]
    except ImportError as problem:
        raise MusiqError(f"CUDA needs cuda-python ({problem}): pip install 'cuda-python>=12.8'.") from problem
    module: ModuleType = runtime
    return module


def call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """The result of a CUDA runtime function. Raises MusiqError with CUDA's own words."""
    error, *results = function(*arguments)
    if int(error):
        cuda = import_cuda()
        _, words = cuda.cudaGetErrorString(error)
        remedy = (
            "Use smaller batches, or free the GPU" if "memory" in words.decode() else "Check the GPU with nvidia-smi"
        )
        raise MusiqError(f"{function.__name__} failed: {words.decode()}. {remedy}.")
    return results[0] if len(results) == 1 else tuple(results)


def why_no_gpu() -> str:
    """Why no GPU can be used here; empty where one can."""
    try:
        cuda = import_cuda()
        if not call(cuda.cudaDriverGetVersion):
            return "no NVIDIA driver here"
        return "" if call(cuda.cudaGetDeviceCount) else "no NVIDIA GPU here"
    except MusiqError as reason:
        return str(reason).removesuffix(".")


def find(device: str) -> Gpu:
    """The GPU that "auto", "cuda" or "cuda:1" means. Raises MusiqError where there is none."""
    if reason := why_no_gpu():
        raise MusiqError(f"{device} cannot be used: {reason}. Run this on a machine with an NVIDIA GPU and its driver.")
    cuda, index = import_cuda(), cuda_index(device)
    count = call(cuda.cudaGetDeviceCount)
    if index >= count:
        raise MusiqError(f"There is no {device}: CUDA sees {count} GPUs, cuda:0 to cuda:{count - 1}.")
    properties = call(cuda.cudaGetDeviceProperties, index)
    name = bytes(properties.name).decode().rstrip("\0")
    return Gpu(index, name, 10 * properties.major + properties.minor)


class Buffer:
    """Memory for one tensor, on the GPU and pinned on the host, so that copies run at full speed beside other work."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], least_bytes: int = 0) -> None:
        self._cuda = import_cuda()
        self._dtype, self.bytes = dtype, max(least_bytes, int(np.prod(shape)) * dtype.itemsize)
        self.device: int = int(call(self._cuda.cudaMalloc, self.bytes))
        try:
            self._host: int = int(call(self._cuda.cudaMallocHost, self.bytes))
        except MusiqError:
            self._cuda.cudaFree(self.device)
            raise

    def holds(self, shape: tuple[int, ...]) -> bool:
        return int(np.prod(shape)) * self._dtype.itemsize <= self.bytes

    def view(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """The beginning of the pinned memory as an array; overwritten by the next use."""
        if not self.holds(shape):
            raise MusiqError(f"A batch of shape {shape} is larger than the {self.bytes} bytes that are there for it.")
        host = memoryview((ctypes.c_uint8 * (int(np.prod(shape)) * self._dtype.itemsize)).from_address(self._host))
        return np.frombuffer(host, self._dtype).reshape(shape)

    def upload(self, array: NDArray[Any], stream: Any) -> None:
        view = self.view(array.shape)
        np.copyto(view, array)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        call(self._cuda.cudaMemcpyAsync, self.device, self._host, view.nbytes, kind, stream)

    def download(self, shape: tuple[int, ...], stream: Any) -> NDArray[Any]:
        """A view that holds the values once the stream is done."""
        view = self.view(shape)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        call(self._cuda.cudaMemcpyAsync, self._host, self.device, view.nbytes, kind, stream)
        return view

    def free(self) -> None:
        self._cuda.cudaFree(self.device)
        self._cuda.cudaFreeHost(self._host)


class Stream:
    """A CUDA stream and its buffers: what a call needs on the GPU beside the model. Calls on two streams overlap."""

    def __init__(self, index: int) -> None:
        self._cuda, self._index = import_cuda(), index
        self.buffers: dict[str, Buffer] = {}
        self.enter()
        self.handle = call(self._cuda.cudaStreamCreate)

    def enter(self) -> None:
        """To be called first in each thread: the current device is each thread's own."""
        call(self._cuda.cudaSetDevice, self._index)

    def buffer(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        """The buffer `name` with room for `shape`: the same memory as long as that is large enough, then half as much
        again at least, so that images of ever larger sizes soon find room."""
        least_bytes = 0
        if name in self.buffers and not self.buffers[name].holds(shape):
            outgrown = self.buffers.pop(name)
            outgrown.free()
            least_bytes = outgrown.bytes * 3 // 2
        if name not in self.buffers:
            self.buffers[name] = Buffer(shape, dtype, least_bytes)
        return self.buffers[name]

    def upload(self, name: str, array: NDArray[Any]) -> None:
        self.buffers[name].upload(array, self.handle)

    def download(self, shapes: dict[str, tuple[int, ...]]) -> list[NDArray[Any]]:
        """The values of each named buffer, when all that was put on the stream is done."""
        views = [self.buffers[name].download(shape, self.handle) for name, shape in shapes.items()]
        self.wait()
        return [view.copy() for view in views]

    def wait(self) -> None:
        call(self._cuda.cudaStreamSynchronize, self.handle)

    def free(self) -> None:
        self.enter()
        while self.buffers:
            self.buffers.popitem()[1].free()
        self._cuda.cudaStreamDestroy(self.handle)
