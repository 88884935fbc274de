"""Opens a model file in the runtime of its format: the one table of openers, by the endings of file names.

What a runtime needs (torch, ONNX Runtime, ...) is imported by its opener, when it is called.
"""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path

from musiq import artifact
from musiq.errors import MusiqError
from musiq.file_formats import CHECKPOINT_ENDINGS, ENDINGS, ending_of
from musiq.files import check_utf8, why_unreadable
from musiq.hardware import adds_int8_exactly
from musiq.runtimes.base import Opener, Runtime, RuntimeOptions, check_device, check_threads
from musiq.runtimes.onnxruntime import OnnxRuntime
from musiq.runtimes.openvino import OpenVinoRuntime
from musiq.runtimes.pytorch import open_checkpoint, open_pt2, open_torchscript
from musiq.runtimes.tensorrt import TensorRtRuntime

RUNTIMES: dict[str, Opener] = {
    **dict.fromkeys(CHECKPOINT_ENDINGS, open_checkpoint),
    ".torchscript": open_torchscript,
    ".pt2": open_pt2,
    ".onnx": OnnxRuntime,
    ".xml": OpenVinoRuntime,
    ".engine": TensorRtRuntime,
    ".rtx.engine": partial(TensorRtRuntime, package="tensorrt_rtx"),
}
"""File name ending to what opens it."""


def open_runtime(path: Path | str, device: str = "auto", threads: int | None = None, mode: str = "latency") -> Runtime:
    """The runtime for a file: a checkpoint in PyTorch, an artifact in the runtime of its format.

    Args:
        path: A checkpoint, or an artifact with its record beside it.
        device: "auto" (a GPU if one works), "cpu" or "cuda:0" (any number): a CUDA device that cannot run the file is an
            error, never a quiet CPU run. An .onnx file may also go to "tensorrt:0", ONNX Runtime's TensorRT provider, and
            with a fixed batch to "cuda-graph:0", which replays its kernels as one CUDA graph; a .pt2 file or a checkpoint
            to "cuda-compile:0", where PyTorch compiles it for each batch larger than those before, for about 20 s.
        threads: On a CPU, at least 1; None for as many as this process may use.
        mode: "latency", where all threads serve one call, or "throughput", where each runs a call of its own, for .onnx
            and .xml on CPUs.

    Raises:
        MusiqError: The file is missing, changed or of no known kind, the device cannot run it, its runtime is not
            installed, or an option makes no sense.

    Warns:
        UserWarning: The artifact was not compared with its checkpoint, or not on a CPU like this one.
    """
    check_threads(threads, mode)
    path = Path(path)
    if refusal := artifact.read_refusal(path):
        raise MusiqError(f"There is no file {path}, for its export was refused: {refusal.reason}")
    if why := why_unreadable(path):
        found = f"Cannot read {path}: {why}" if os.path.lexists(path) else f"There is no file {path}"
        raise MusiqError(f"{found}. Give a checkpoint or an artifact ({', '.join(ENDINGS)}).")
    ending = ending_of(path)
    if ending is None:
        raise MusiqError(f"{path} cannot be opened: its name should end in one of {', '.join(ENDINGS)}.")
    check_device(device, path)
    throughput = mode == "throughput"
    if throughput:
        _check_throughput(path, ending, device)
        device = "cpu"  # two calls at once are what a GPU gets anyway
    if ending in CHECKPOINT_ENDINGS:
        return RUNTIMES[ending](path, RuntimeOptions(device, threads))
    record = artifact.read_record(path)  # refuses an artifact that is not the recorded one
    try:
        runtime = RUNTIMES[ending](path, RuntimeOptions(device, threads, throughput, record))
    except Exception:
        check_utf8(path)  # each library has its own words for a name that it cannot read, or none
        raise
    _warn_if_unverified(path, record, runtime.provider)
    return runtime


def _check_throughput(path: Path, ending: str, device: str) -> None:
    if not ENDINGS[ending].has_throughput or device not in ("auto", "cpu"):
        having = " and ".join(end for end, format in ENDINGS.items() if format.has_throughput)
        raise MusiqError(
            f"The mode throughput is for {having} files on CPUs, not for {path.name} on {device}. "
            "Leave it out; on a GPU a larger batch serves throughput."
        )


def _warn_if_unverified(path: Path, record: artifact.Record | None, provider: str) -> None:
    if record is None:
        warnings.warn(f"{path} is unverified: it has no record {artifact.record_path(path).name}", stacklevel=3)
    elif record.unverified:
        warnings.warn(
            f"{path} is unverified: {record.unverified.rstrip('.')}. Check it with musiq-export --verify {path}",
            stacklevel=3,
        )
    elif record.precision == "int8" and "CPU" in provider and _may_overflow(record):
        warnings.warn(
            f"{path} is unverified on this CPU, which has no VNNI: sums of its int8 products can overflow here. Export it "
            "with --weight-bits 7, or on a CPU like this one",
            stacklevel=3,
        )


def _may_overflow(record: artifact.Record) -> bool:
    int8 = record.details.int8
    return adds_int8_exactly() is False and (int8 is None or int8.weight_bits != 7)
