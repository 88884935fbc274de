"""What a run has measured. `report.json` is a `Report`; `report.schema.json` beside this module says what each field is.

The schema "musiq-bench/1" is kept stable: fields may be added in this version, not changed or removed. A figure that does
not exist is null, and `words` has the reason under the figure's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .latency import Latency

SCHEMA = "musiq-bench/1"

INTERRUPTED = "not measured (interrupted)"
"""The status of a row that Ctrl-C left without a single round."""

Interval = list[float]  # [low, high], 95%


@dataclass
class Row:
    """One model at one batch size. `status` is "ok", "failed", "missing package", "out of memory", "crashed",
    "timed out", "fallback" or INTERRUPTED, and `reason` says more.

    Times are milliseconds of one call with `batch` images, unless the name has another unit. `model` clock
    (`latency_ms`): uint8 images in host memory to scores there. `end_to_end_ms`: files on disk to scores, one after
    another. Differences are absolute, in score units.
    """

    model: str
    path: str
    sha256: str
    format: str
    # "reference": PyTorch fp32, which others are compared with; "baseline": it compiled or in half precision; "candidate"
    role: str
    precision: str
    device: str  # asked for
    batch: int
    provider: str | None = None  # what really ran
    status: str = "ok"
    reason: str = ""
    height: int | None = None
    width: int | None = None
    target: str | None = None
    precision_inside: str | None = None  # what its exporter counted in the finished file, in words
    layers: str | None = None  # those that do the work and how many others, as it counted them
    build_s: float | None = None  # that the exporter took, calibration included
    threads: int | None = None  # that the runtime was opened with
    tf32: str | None = None
    file_mb: float | None = None
    load_s: float | None = None  # median over rounds, imports included
    cold_start_ms: float | None = None  # the first call, median over rounds; compiled: of the first round
    latency_ms: Latency | None = None
    images_per_s: float | None = None  # of the model clock: images over the sum of latencies
    end_to_end_ms: Latency | None = None
    end_to_end_images_per_s: float | None = None
    peak_memory_mib: float | None = None  # of the whole process, Python and packages included
    device_memory_mib: float | None = None  # the most that all GPUs held beyond what they held before
    gpu_clock_mhz: float | None = None  # median while timed, of the GPU that was used
    reference: str | None = None
    images: int | None = None  # scored, for the figures below; scored once for a model, at its first batch size
    batch_difference: float | None = None  # largest between scores of timed calls and those figures' scores
    srcc_reference: float | None = None
    max_difference: float | None = None
    mean_difference: float | None = None
    difference_at: str | None = None  # the image with the largest
    srcc: float | None = None
    srcc_interval: Interval | None = None
    plcc: float | None = None
    plcc_interval: Interval | None = None
    plcc_fitted: float | None = None
    plcc_fitted_interval: Interval | None = None
    krcc: float | None = None
    krcc_interval: Interval | None = None
    rmse: float | None = None
    rmse_interval: Interval | None = None
    srcc_delta: float | None = None  # SRCC minus the reference's, paired over images
    srcc_delta_interval: Interval | None = None
    words: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class Report:
    created: str
    command: str
    environment: dict[str, Any]
    settings: dict[str, Any]
    images: dict[str, Any]
    labels: dict[str, Any] | None
    caption: str
    rows: list[Row]
    interrupted: bool = False
    resumed: int = 0  # rounds taken over from an earlier run (--resume)
    schema: str = SCHEMA
