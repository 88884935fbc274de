"""Reports as musiq-bench writes them, with figures out of a random number generator in place of a measurement."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from musiq_bench.report.latency import by_size, summarise
from musiq_bench.report.schema import Report, ReportRow

RUNTIMES = [("pytorch", "PyTorch cpu", "fp32", 1.2), ("onnx", "CPUExecutionProvider", "fp32", 0.8)]
MORE = [("onnx", "CPUExecutionProvider", "int8", 0.4), ("openvino", "OpenVINO CPU", "bf16", 0.41)]


def made_row(model: str, runtime: tuple[str, str, str, float], batch: int, rng: np.random.Generator) -> ReportRow:
    """A row whose latencies scatter by 3%, and their rounds by another 1.5%."""
    format, provider, precision, speed = runtime
    middle = 50 * speed * batch**0.9
    rounds = [middle * rng.lognormal(0, 0.015) * rng.lognormal(0, 0.03, 40) for _ in range(3)]
    latency = summarise([each.tolist() for each in rounds])
    assert latency is not None
    row = ReportRow(
        model, f"exports/{model}.{format}", "ab" * 32, format, "candidate", precision, "cpu", batch, provider
    )
    row.latency_ms = row.end_to_end_ms = latency
    row.images_per_s, row.images, row.height, row.width = 1e3 * batch / latency.mean, 200, 768, 1024
    row.file_mb, row.load_s, row.cold_start_ms, row.peak_memory_mib = 104.7, 1.25, 99.0, 800.0
    row.role = "reference" if format == "pytorch" else "candidate"
    row.reference = "exports/model.pytorch"
    if row.role == "candidate":
        row.srcc_reference, row.max_difference, row.mean_difference = 0.9999, 1e-3, 1e-4
    return row


def label(row: ReportRow, srcc: float) -> ReportRow:
    """With labels: their figures, and for a candidate the paired difference to a reference of 0.82."""
    row.srcc, row.srcc_interval = srcc, [srcc - 0.05, srcc + 0.04]
    row.plcc, row.plcc_interval = srcc + 0.01, [srcc - 0.04, srcc + 0.05]
    if row.role == "candidate":
        row.srcc_delta, row.srcc_delta_interval = srcc - 0.82, [srcc - 0.821, srcc - 0.819]
    return row


def made_report(
    models: tuple[str, ...] = ("model",),
    batches: tuple[int, ...] = (1, 8),
    runtimes: list[tuple[str, str, str, float]] = RUNTIMES + MORE,
    labelled: bool = True,
    seed: int = 0,
) -> Report:
    rng = np.random.default_rng(seed)
    each = [(model, runtime, batch) for model in models for runtime in runtimes for batch in batches]
    rows = [made_row(model, runtime, batch, rng) for model, runtime, batch in each]
    if labelled:
        rows = [label(row, 0.82 - 0.001 * index) for index, row in enumerate(rows)]
    where: dict[str, Any] = {"cpu": "a CPU", "cores": 2, "gpus": [], "versions": {"numpy": "2"}, "python": "3.11"}
    images = {"folders": ["photos"], "found": 201, "used": 200, "fitted": 3, "broken": []}
    labels = {"source": "labels.csv", "target": "MOS", "split": "test", "n": 200} if labelled else None
    settings = {"devices": ["cpu"], "threads": None, "calls": 100, "seconds": 3.0, "rounds": 3}
    when, command = "2026-01-02T03:04:05+00:00", "musiq-bench --images photos/"
    return Report(when, command, where, settings, images, labels, "200 images at 1024x768.", rows)


def plain_row(**fields: object) -> ReportRow:
    """A row without a figure."""
    basics = ReportRow("model", "exports/model.onnx", "ab" * 32, "onnx", "candidate", "fp32", "auto", 1)
    return dataclasses.replace(basics, **{"provider": "CPUExecutionProvider", **fields})  # type: ignore[arg-type]


def small_report(*rows: ReportRow, labels: bool = True) -> Report:
    """A report of these rows."""
    where = {"cpu": "a CPU", "cores": 2, "gpus": [], "versions": {"numpy": "2"}, "python": "3.11"}
    described = {"source": "labels.csv", "target": "mos of set/labels.csv", "split": "test", "n": 48}
    images = {"used": 48, "broken": [{"path": "x.jpg", "reason": "empty"}]}
    return Report("now", "musiq-bench", where, {}, images, described if labels else None, "a caption", list(rows))


def any_row(n: int = 120, **fields: object) -> ReportRow:
    """A row of a model for any size: two calls of each image of 640x480 to one of 1920x1080, four times as slow."""
    ms = np.linspace(10, 20, n).tolist()
    sizes = [(480, 640), (480, 640), (1080, 1920)] * (n // 3)
    taken = [each * (4 if size[0] == 1080 else 1) for each, size in zip(ms, sizes, strict=True)]
    figures = {"any_size": True, "resize": "native", "by_size": by_size(taken, sizes), "images_per_s": 33.3}
    return plain_row(**{"model": "any", "latency_ms": summarise([taken], mixed=True), **figures, **fields})


def measured_row(n: int = 100, **fields: object) -> ReportRow:
    """A row of `n` calls between 10 and 20 ms."""
    latency = summarise([np.linspace(10, 20, n).tolist()])
    figures = {"latency_ms": latency, "images_per_s": 66.7, "max_difference": 3e-6, "srcc_reference": 0.99999}
    return plain_row(**{**figures, "srcc": 0.81234, "plcc": 0.79, **fields})
