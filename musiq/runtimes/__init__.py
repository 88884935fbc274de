"""Runtimes: each opens one kind of file and is one callable: uint8 pictures in, float32 scores out, returned is done."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from musiq import artifact
from musiq.cpu import adds_int8_exactly
from musiq.errors import MusiqError
from musiq.spec import Spec

Images = NDArray[np.uint8]
Scores = NDArray[np.float32]


class Runtime(Protocol):
    """What every runtime offers. Safe to call from several threads unless its module says otherwise."""

    spec: Spec
    provider: str
    """What really runs, as the backend itself names it: "CPUExecutionProvider", "PyTorch cpu", ..."""
    in_flight: int
    """How many calls at once make sense, each from a thread of its own: 1 on a CPU, which one call keeps busy, unless it
    was opened for throughput; 2 on a GPU, where one batch is copied while another computes. Each call holds the working
    memory of its batch."""
    default_batch: int
    """How many pictures make sense in a call, for those who do not know better: see `feed.Feed.default_batch`."""

    def __call__(self, images: Images) -> Scores:
        """uint8 (N, H, W, 3) RGB to float32 (N,): scores in the units of `spec.target`."""
        ...

    def run(self, images: Images) -> dict[str, Scores]:
        """All that the model computes: "score" (N,), and "shares" (N, K) of the ratings 1..K where it has them."""
        ...

    def close(self) -> None:
        """Give memory and device back; a call afterwards raises MusiqError."""
        ...


MODES = ("latency", "throughput")
"""What CPU threads are for: all of them for one call, or one each for as many calls as there are."""


@dataclass(frozen=True)
class Opening:
    """How to open a file: see `open_runtime`. The record, read and checked already, is what engines live by."""

    device: str
    threads: int | None
    throughput: bool = False
    record: artifact.Record | None = None


Opener = Callable[[Path, Opening], Runtime]


def _checkpoint(path: Path, how: Opening) -> Runtime:
    from musiq.runtimes.pt import open_checkpoint

    return open_checkpoint(path, how.device, how.threads)


def _onnx(path: Path, how: Opening) -> Runtime:
    from musiq.runtimes.ort import OrtRuntime

    return OrtRuntime(path, how.device, how.threads, how.record, how.throughput)


def _openvino(path: Path, how: Opening) -> Runtime:
    from musiq.runtimes.ov import OpenVinoRuntime

    return OpenVinoRuntime(path, how.device, how.threads, how.throughput)


def _torchscript(path: Path, how: Opening) -> Runtime:
    from musiq.runtimes.pt import open_torchscript

    return open_torchscript(path, how.device, how.threads)


def _pt2(path: Path, how: Opening) -> Runtime:
    from musiq.runtimes.pt import open_pt2

    return open_pt2(path, how.device, how.threads)


def _trt(path: Path, how: Opening) -> Runtime:
    from musiq.runtimes.trt import TensorRtRuntime

    return TensorRtRuntime(path, how.device, "tensorrt", how.record)


def _trt_rtx(path: Path, how: Opening) -> Runtime:
    from musiq.runtimes.trt import TensorRtRuntime

    return TensorRtRuntime(path, how.device, "tensorrt_rtx", how.record)


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

THROUGHPUT = (".onnx", ".xml")
"""What has the mode of that name."""


def open_runtime(path: Path | str, device: str = "auto", threads: int | None = None, mode: str = "latency") -> Runtime:
    """The runtime for a file: a checkpoint in PyTorch, an artefact in the runtime of its format.

    `device` is "auto", "cpu" or "cuda:0" (any number): a CUDA device that cannot run the file is an error, never a quiet
    CPU run; "auto" takes a GPU if one works. An .onnx file may also go to "tensorrt:0", ONNX Runtime's TensorRT provider,
    and with a fixed batch to "cuda-graph:0", which replays its kernels as one CUDA graph; a .pt2 file or a checkpoint to
    "cuda-compile:0", where PyTorch compiles it for each batch larger than those before, for about 20 s.
    `threads` on a CPU: None for what this process may use. `mode` is one of MODES; "throughput" is for .onnx and .xml on
    CPUs. Raises MusiqError for a missing, changed or unknown file, or a runtime that is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise MusiqError(f"There is no file {path}. Give a checkpoint or an artefact ({', '.join(RUNTIMES)}).")
    ending = artifact.suffix(path, list(RUNTIMES))
    if ending is None:
        raise MusiqError(f"{path} cannot be opened: its name should end in one of {', '.join(RUNTIMES)}.")
    check_device(device, path)
    throughput = mode == "throughput"
    if throughput:
        if ending not in THROUGHPUT or device not in ("auto", "cpu"):
            raise MusiqError(
                f"The mode throughput is for {' and '.join(THROUGHPUT)} files on CPUs, not for {path.name} on {device}. "
                "Leave it out; on a GPU a larger batch serves throughput."
            )
        device = "cpu"  # two calls at once are what a GPU gets anyway
    if ending in CHECKPOINTS:
        return RUNTIMES[ending](path, Opening(device, threads))
    record = artifact.read_record(path)  # refuses an artefact that is not the recorded one
    runtime = RUNTIMES[ending](path, Opening(device, threads, throughput, record))
    _warn_if_unverified(path, record, runtime.provider)
    return runtime


def _warn_if_unverified(path: Path, record: artifact.Record | None, provider: str) -> None:
    if record is None:
        warnings.warn(f"{path} is unverified: it has no record {artifact.record_path(path).name}", stacklevel=3)
    elif record.unverified:
        warnings.warn(
            f"{path} is unverified: {record.unverified}. Finish the check with musiq-export --verify {path}",
            stacklevel=3,
        )
    elif record.precision == "int8" and "CPU" in provider and _may_overflow(record):
        warnings.warn(
            f"{path} is unverified on this CPU, which has no VNNI: sums of its int8 products can overflow here. Export it "
            "with --weight-bits 7, or on a CPU like this one",
            stacklevel=3,
        )


def _may_overflow(record: artifact.Record) -> bool:
    return adds_int8_exactly() is False and not str(record.details.get("weights", "")).endswith(artifact.SEVEN_BITS)


WAYS: dict[str, tuple[str, ...]] = {
    "cuda-graph": (".onnx",),
    "tensorrt": (".onnx",),
    "cuda-compile": (".pt2", *CHECKPOINTS),
}
"""Special ways to use a CUDA device, and which files have them."""


def check_device(device: str, path: Path) -> None:
    """Raise MusiqError unless `device` is one that a file of this kind can run on."""
    kind, colon, number = device.partition(":")
    on_gpu = kind in ("cuda", *WAYS) and (number.isdecimal() or not colon)
    if device not in ("auto", "cpu") and not on_gpu:
        raise MusiqError(
            f"There is no device {device!r}; expected auto, cpu, cuda or cuda:0 (any number), for .onnx files also "
            "cuda-graph:0 or tensorrt:0, and for .pt2 files cuda-compile:0."
        )
    if kind in WAYS and path.suffix not in WAYS[kind]:
        ending = WAYS[kind][0]
        wanted = f"{'an' if ending == '.onnx' else 'a'} {ending} file does"
        raise MusiqError(f"{path.name} does not run on {device}, {wanted}: use cuda:{cuda_index(device)}.")


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
