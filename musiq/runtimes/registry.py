"""Runtimes: each opens one kind of file and is one callable: uint8 images in, float32 scores out, returned is done."""

from __future__ import annotations

import warnings
from pathlib import Path

from musiq import artifact, files
from musiq.errors import MusiqError
from musiq.hardware import adds_int8_exactly
from musiq.runtimes.base import CHECKPOINTS, Opener, Opening, Runtime, check_device


def _checkpoint(path: Path, how: Opening) -> Runtime:
    from musiq.runtimes.pytorch import open_checkpoint

    return open_checkpoint(path, how.device, how.threads)


def _onnx(path: Path, how: Opening) -> Runtime:
    from musiq.runtimes.onnxruntime import OrtRuntime

    return OrtRuntime(path, how.device, how.threads, how.record, how.throughput)


def _openvino(path: Path, how: Opening) -> Runtime:
    from musiq.runtimes.openvino import OpenVinoRuntime

    return OpenVinoRuntime(path, how.device, how.threads, how.throughput)


def _torchscript(path: Path, how: Opening) -> Runtime:
    from musiq.runtimes.pytorch import open_torchscript

    return open_torchscript(path, how.device, how.threads)


def _pt2(path: Path, how: Opening) -> Runtime:
    from musiq.runtimes.pytorch import open_pt2

    return open_pt2(path, how.device, how.threads)


def _trt(path: Path, how: Opening) -> Runtime:
    from musiq.runtimes.tensorrt import TensorRtRuntime

    return TensorRtRuntime(path, how.device, "tensorrt", how.record)


def _trt_rtx(path: Path, how: Opening) -> Runtime:
    from musiq.runtimes.tensorrt import TensorRtRuntime

    return TensorRtRuntime(path, how.device, "tensorrt_rtx", how.record)


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
    """The runtime for a file: a checkpoint in PyTorch, an artifact in the runtime of its format.

    `device` is "auto", "cpu" or "cuda:0" (any number): a CUDA device that cannot run the file is an error, never a quiet
    CPU run; "auto" takes a GPU if one works. An .onnx file may also go to "tensorrt:0", ONNX Runtime's TensorRT provider,
    and with a fixed batch to "cuda-graph:0", which replays its kernels as one CUDA graph; a .pt2 file or a checkpoint to
    "cuda-compile:0", where PyTorch compiles it for each batch larger than those before, for about 20 s.
    `threads` on a CPU: None for what this process may use. `mode` is one of MODES; "throughput" is for .onnx and .xml on
    CPUs. Raises MusiqError for a missing, changed or unknown file, or a runtime that is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise MusiqError(f"There is no file {path}. Give a checkpoint or an artifact ({', '.join(RUNTIMES)}).")
    ending = files.suffix(path, list(RUNTIMES))
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
    record = artifact.read_record(path)  # refuses an artifact that is not the recorded one
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
