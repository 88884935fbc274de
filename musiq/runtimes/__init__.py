"""Runtimes: each opens one kind of file and is one callable: uint8 pictures in, float32 scores out, returned is done."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from musiq import artifact
from musiq.errors import MusiqError
from musiq.spec import Spec

Images = NDArray[np.uint8]
Scores = NDArray[np.float32]


class Runtime(Protocol):
    """What every runtime offers. Safe to call from several threads unless its module says otherwise."""

    spec: Spec
    provider: str
    """What really runs, as the backend itself names it: "CPUExecutionProvider", "PyTorch cpu", ..."""

    def __call__(self, images: Images) -> Scores:
        """uint8 (N, H, W, 3) RGB to float32 (N,): scores in the units of `spec.target`."""
        ...

    def run(self, images: Images) -> dict[str, Scores]:
        """All that the model computes: "score" (N,), and "shares" (N, K) of the ratings 1..K where it has them."""
        ...

    def close(self) -> None:
        """Give memory and device back; the runtime cannot be called afterwards."""
        ...


Opener = Callable[[Path, str, int | None, artifact.Record | None], Runtime]
"""Opens a file on a device with so many CPU threads; the record, read and checked already, is what engines live by."""


def _checkpoint(path: Path, device: str, threads: int | None, record: artifact.Record | None) -> Runtime:
    from musiq.runtimes.eager import EagerRuntime

    return EagerRuntime(path, device, threads)


def _onnx(path: Path, device: str, threads: int | None, record: artifact.Record | None) -> Runtime:
    from musiq.runtimes.ort import OrtRuntime

    return OrtRuntime(path, device, threads)


def _openvino(path: Path, device: str, threads: int | None, record: artifact.Record | None) -> Runtime:
    from musiq.runtimes.ov import OpenVinoRuntime

    return OpenVinoRuntime(path, device, threads)


def _torchscript(path: Path, device: str, threads: int | None, record: artifact.Record | None) -> Runtime:
    from musiq.runtimes.traced import open_torchscript

    return open_torchscript(path, device, threads)


def _pt2(path: Path, device: str, threads: int | None, record: artifact.Record | None) -> Runtime:
    from musiq.runtimes.traced import open_pt2

    return open_pt2(path, device, threads)


def _trt(path: Path, device: str, threads: int | None, record: artifact.Record | None) -> Runtime:
    from musiq.runtimes.trt import TensorRtRuntime

    return TensorRtRuntime(path, device, "tensorrt", record)


def _trt_rtx(path: Path, device: str, threads: int | None, record: artifact.Record | None) -> Runtime:
    from musiq.runtimes.trt import TensorRtRuntime

    return TensorRtRuntime(path, device, "tensorrt_rtx", record)


CHECKPOINTS = (".safetensors", ".pth", ".pt", ".npz")

RUNTIMES: dict[str, Opener] = {
    **dict.fromkeys(CHECKPOINTS, _checkpoint),
    ".torchscript": _torchscript,
    ".pt2": _pt2,
    ".onnx": _onnx,
    ".xml": _openvino,
    ".engine": _trt,
    ".rtx.engine": _trt_rtx,
}
"""File name ending to what opens it."""


def open_runtime(path: Path | str, device: str = "auto", threads: int | None = None) -> Runtime:
    """The runtime for a file: a checkpoint in PyTorch, an artefact in the runtime of its format.

    `device` is "auto", "cpu" or "cuda:0" (any number): a CUDA device that cannot run the file is an error, never a quiet
    CPU run; "auto" takes a GPU if one works. `threads` on a CPU: None for what this process may use. Raises MusiqError
    for a missing, changed or unknown file, or a runtime that is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise MusiqError(f"There is no file {path}. Give a checkpoint or an artefact ({', '.join(RUNTIMES)}).")
    ending = artifact.suffix(path, list(RUNTIMES))
    if ending is None:
        raise MusiqError(f"{path} cannot be opened: its name should end in one of {', '.join(RUNTIMES)}.")
    check_device(device)
    if ending in CHECKPOINTS:
        return RUNTIMES[ending](path, device, threads, None)
    record = artifact.read_record(path)  # refuses an artefact that is not the recorded one
    runtime = RUNTIMES[ending](path, device, threads, record)
    _warn_if_unverified(path, record)
    return runtime


def _warn_if_unverified(path: Path, record: artifact.Record | None) -> None:
    if record is None:
        warnings.warn(f"{path} is unverified: it has no record {artifact.record_path(path).name}", stacklevel=3)
    elif record.unverified:
        warnings.warn(
            f"{path} is unverified: {record.unverified}. Finish the check with musiq-export --verify {path}",
            stacklevel=3,
        )


def check_device(device: str) -> None:
    kind, _, number = device.partition(":")
    if device not in ("auto", "cpu", "cuda") and not (kind == "cuda" and number.isdigit()):
        raise MusiqError(f"There is no device {device!r}; expected auto, cpu, cuda or cuda:0 (any number).")


def cuda_index(device: str) -> int:
    """The number in "cuda:1"; 0 for "cuda" and "auto"."""
    return int(device.partition(":")[2] or 0)


def check_images(images: Images, spec: Spec) -> None:
    """Raise MusiqError unless `images` is uint8 (N >= 1, H, W, 3) of the size that the model is for."""
    expected = f"uint8 (N, {spec.height}, {spec.width}, 3)"
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (spec.height, spec.width, 3):
        raise MusiqError(
            f"The pictures are {images.dtype} {images.shape}; this model takes {expected}, RGB. "
            "musiq.image.fit makes them fit."
        )
    if not len(images):
        raise MusiqError(f"The batch is empty; this model takes {expected} with N of at least 1.")
