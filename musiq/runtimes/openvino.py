"""Runs OpenVINO artifacts (.xml and .bin) on the CPU, without torch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from musiq.errors import MusiqError, one_line, pip_install
from musiq.hardware import available_cpus
from musiq.runtimes.base import Images, RuntimeOptions, Scores
from musiq.runtimes.batching import KEYS, PRECISION, Feed
from musiq.runtimes.concurrency import not_closed

# On CPUs with bf16 units OpenVINO computes fp32 graphs in bf16 unless told otherwise: "fp32" is fp32 here. fp16 is a
# storage type on CPUs and is computed in fp32.
INFERENCE_PRECISION = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}


KERNELS_KEPT = 200
"""Kernels that OpenVINO keeps where images may have any size, for shapes that come again: as many as the layers of one call
share. Its own 5,000 hold gigabytes after some hundred sizes."""


class OpenVinoRuntime:
    """OpenVINO; safe to call from several threads.

    For throughput it divides the threads into streams as it thinks best, each running a call of its own.
    """

    def __init__(self, path: Path, options: RuntimeOptions) -> None:
        if options.device not in ("auto", "cpu"):
            raise MusiqError(
                f"OpenVINO runs on the CPU here, not on {options.device}. Use --device cpu, or an ONNX export for CUDA."
            )
        hint = "THROUGHPUT" if options.throughput else "LATENCY"
        threads = options.threads or available_cpus()
        self._compiled, self._feed = compile_for_cpu(path, threads, PERFORMANCE_HINT=hint)
        self.spec = self._feed.spec
        self.provider = f"OpenVINO CPU {self._compiled.get_property('INFERENCE_PRECISION_HINT').to_string()}"
        self._local = threading.local()
        streams = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") if options.throughput else 1
        self.in_flight = int(streams)
        self.default_batch = self._feed.default_batch(threads, self.in_flight)
        self.call_shares = self._feed.call_shares

    def __call__(self, images: Images | Sequence[Images]) -> Scores:
        return self.run(images)["score"]

    def run(self, images: Images | Sequence[Images]) -> dict[str, Scores]:
        return self._feed.run(images, self._call)

    def _call(self, arrays: list[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        compiled, local = not_closed(self._compiled), self._local
        if not hasattr(local, "request"):  # a request belongs to one thread
            local.request = compiled.create_infer_request()
        results = local.request.infer(arrays, share_inputs=True)
        return [results[output].copy() for output in compiled.outputs]

    def close(self) -> None:
        self._compiled, self._local = None, threading.local()


def compile_for_cpu(path: Path, threads: int, **more: object) -> tuple[Any, Feed]:
    """OpenVINO's CompiledModel of an artifact, in the precision that it was exported for, and what it takes; `more` are
    further properties of OpenVINO's. Raises MusiqError for a file that OpenVINO cannot open."""
    core = import_openvino().Core()
    try:
        model = core.read_model(str(path))
        metadata = _metadata(model)
        feed = Feed.from_metadata(metadata, path)
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": INFERENCE_PRECISION[metadata.get(PRECISION, "fp32")],
            "PERFORMANCE_HINT": "LATENCY",
            **({"CPU_RUNTIME_CACHE_CAPACITY": KERNELS_KEPT} if feed.spec.any_size else {}),
            **more,
        }
        return core.compile_model(model, "CPU", options), feed
    except RuntimeError as problem:
        reason = one_line(str(problem).strip().rpartition("\n")[2] or "RuntimeError", 200)  # the last line: the cause
        raise MusiqError(
            f"OpenVINO cannot open {path} ({reason}). Export it again, with its .bin beside it."
        ) from problem


def import_openvino() -> ModuleType:
    """OpenVINO, or a MusiqError with its install line."""
    try:
        import openvino
    except ImportError as problem:
        raise MusiqError(f"OpenVINO cannot be imported ({problem}): {pip_install('openvino')}.") from problem
    module: ModuleType = openvino
    return module


def _metadata(model: Any) -> dict[str, str]:
    return {key: model.get_rt_info(["musiq", key]).astype(str) for key in KEYS if model.has_rt_info(["musiq", key])}
