"""The report of a run: `report.json` is a `Report`, and `report.schema.json` beside this module its JSON schema.

A version of the schema is kept stable: fields may be added in it, not changed or removed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .latency import ClassLatency, Latency
from .quality import Interval

SCHEMA = "musiq-bench/2"

INTERRUPTED = "not measured (interrupted)"
"""The status of a row that Ctrl-C left without a single round."""


@dataclass
class ReportRow:
    """One model at one batch size on one device.

    A figure that does not exist is None, and `words` has the reason under the figure's name. Times are milliseconds of
    one call with `batch` images unless the name has another unit, differences are absolute and in score units, and
    intervals are [low, high] at 95%. report.schema.json says the same of each field for readers of other languages.

    Attributes:
        model: Name in tables, the same at all batch sizes.
        path: The file, as it was given.
        sha256: Of the file.
        format: As musiq-export calls it; "torch.compile" for a checkpoint that PyTorch compiles.
        role: "reference": PyTorch fp32, which others are compared with; "baseline": it compiled or in half precision;
            "candidate": what is compared.
        precision: That the file was made in, or that PyTorch runs a checkpoint in.
        device: Asked for.
        batch: Images in a call.
        provider: What really ran, as the runtime calls it.
        status: "ok", "failed", "missing package", "out of memory", "crashed", "timed out", "fallback" or INTERRUPTED.
        reason: Why the status is not "ok"; empty when it is.
        height: Pixels of the images that the model takes; so `width`. None where it takes any, or was never opened.
        any_size: Whether it takes images of any size, and got them at their own.
        resize: The policy that gave images their sizes, for a model of any: "native", "longer=512".
        target: What the scores were trained to predict.
        precision_inside: What its exporter counted in the finished file, in words.
        layers: Layers that do the work and how many others, as its exporter counted them.
        build_s: Seconds that the exporter took, calibration included.
        threads: CPU threads that the runtime was opened with.
        tf32: What may be rounded to TF32 on a GPU, in words.
        file_mb: Megabytes (1e6 bytes) of the file and those that belong to it.
        load_s: Seconds to open it, imports included; median over rounds.
        cold_start_ms: The first call; median over rounds, of the first round alone for what PyTorch compiles.
        latency_ms: The model's clock: uint8 images in host memory to scores there.
        by_size: The same by size class, for a model of any size.
        images_per_s: Batch over the mean of `latency_ms`.
        end_to_end_ms: Files on disk to scores, one after another.
        end_to_end_images_per_s: Batch over the mean of `end_to_end_ms`.
        peak_memory_mib: Of the whole process, Python and packages included; highest round.
        device_memory_mib: The most that all GPUs held beyond what they held before.
        gpu_clock_mhz: Median SM clock while timed, of the GPU that was used.
        reference: The checkpoint that scores are compared with.
        images: Images scored for the figures below; once for a model, at its first batch size.
        batch_difference: Largest between scores of timed calls and those figures' scores.
        srcc_reference: Spearman's correlation with PyTorch's scores.
        max_difference: Largest to PyTorch's scores.
        mean_difference: Mean to PyTorch's scores.
        difference_at: The image with the largest.
        srcc: Spearman's correlation with the labels.
        plcc: Pearson's, raw.
        plcc_fitted: Pearson's after the 4-parameter logistic of VQEG; it has no interval.
        krcc: Kendall's tau-b.
        rmse: Root mean squared difference to the labels, in their units.
        srcc_delta: `srcc` minus that of PyTorch's scores, paired over images.
        words: Why a figure is None, under the figure's name.
        notes: What a reader of the row should know.
    """

    model: str
    path: str
    sha256: str
    format: str
    role: str
    precision: str
    device: str
    batch: int
    provider: str | None = None
    status: str = "ok"
    reason: str = ""
    height: int | None = None
    width: int | None = None
    any_size: bool = False
    resize: str | None = None
    target: str | None = None
    precision_inside: str | None = None
    layers: str | None = None
    build_s: float | None = None
    threads: int | None = None
    tf32: str | None = None
    file_mb: float | None = None
    load_s: float | None = None
    cold_start_ms: float | None = None
    latency_ms: Latency | None = None
    by_size: list[ClassLatency] = field(default_factory=list)
    images_per_s: float | None = None
    end_to_end_ms: Latency | None = None
    end_to_end_images_per_s: float | None = None
    peak_memory_mib: float | None = None
    device_memory_mib: float | None = None
    gpu_clock_mhz: float | None = None
    reference: str | None = None
    images: int | None = None
    batch_difference: float | None = None
    srcc_reference: float | None = None
    max_difference: float | None = None
    mean_difference: float | None = None
    difference_at: str | None = None
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
    srcc_delta: float | None = None
    srcc_delta_interval: Interval | None = None
    words: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class Report:
    """All that a run has measured, as `report.json` has it.

    Attributes:
        created: ISO 8601, UTC.
        command: The command line.
        environment: The machine, see `bench.machine.environment.describe`.
        settings: How the run measured, see `bench.plan.cases.BenchSettings`.
        images: The images that all models got: folders, found, used, fitted, unlabelled (left out), broken (path and
            reason).
        labels: Their source, target, split and n; None without any.
        caption: What the figures are of, in words.
        rows: One for each model, batch size and device.
        interrupted: Whether Ctrl-C ended the run early.
        resumed: Rounds taken over from an earlier run.
        schema: The version of all this.
    """

    created: str
    command: str
    environment: dict[str, Any]
    settings: dict[str, Any]
    images: dict[str, Any]
    labels: dict[str, Any] | None
    caption: str
    rows: list[ReportRow]
    interrupted: bool = False
    resumed: int = 0
    schema: str = SCHEMA
