"""Cases of musiq-bench without a measurement: files that are never opened, and outcomes that nobody measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from musiq.artifact import Details, Record, write_record
from musiq.files import sha256
from musiq.presets import preset
from musiq.spec import Spec
from musiq_bench.plan.cases import BenchSettings, Case, plan_cases
from musiq_bench.plan.job import Figures, Opened, Outcome
from musiq_bench.plan.models import describe

TWO = BenchSettings(batches=(1, 8))


def artifact(
    path: Path, checkpoint: Path, batch: tuple[int, int] = (1, 0), spec: Spec | None = None, **details: Any
) -> Path:
    """A file that is no graph, and a record beside it that says it was made of `checkpoint`."""
    path.write_bytes(b"graph " + path.name.encode())
    named = {"name": checkpoint.name, "sha256": sha256(checkpoint)}
    record = Record(
        spec or preset("tiny"), "onnx", "fp16", sha256(path), named, batch=batch, details=Details(**details)
    )
    write_record(path, record)
    return path


def cases_of(two: list[Path], *baselines: str, settings: BenchSettings = TWO) -> list[Case]:
    return plan_cases([describe(two[1])], two[0], settings, baselines)


def outcome(**changes: Any) -> Outcome:
    """A round that was finished, with these of its figures changed."""
    opened = Opened(provider="p", load_s=1.0, threads=2, height=64, width=96, target="t")
    figures = Figures(
        cold_start_ms=9.0,
        latencies_ms=[1.0] * 5,
        end_to_end_ms=[2.0] * 5,
        scores=[],
        seen={},
        device_memory_mib=None,
        gpu_clock_mhz=None,
        peak_memory_mib=100.0,
        tf32=None,
    )
    return Outcome("ok", opened=opened, figures=dataclasses.replace(figures, **changes))
