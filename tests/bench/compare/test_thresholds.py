"""The --fail- options: which rows fail, and what is known before anything is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from musiq.errors import MusiqError
from musiq_bench.compare.thresholds import SpeedThreshold, Thresholds, failing
from musiq_bench.plan.cases import plan_cases
from musiq_bench.plan.models import describe
from musiq_bench.report.latency import summarise
from musiq_bench.report.schema import ReportRow
from tests.bench_cases import TWO, artifact, cases_of
from tests.made_report import measured_row, plain_row

pytest_plugins = ["tests.bench_fixtures"]


def test_limits_name_the_row_and_the_figure_that_offends() -> None:
    rows = [measured_row(), measured_row(batch=8, max_difference=0.25, difference_at="a.jpg", srcc=0.5)]
    assert failing(rows, Thresholds()) == []
    assert failing(rows, Thresholds(None, 1.0)) == []
    assert failing(rows, Thresholds(None, 0.1)) == [
        "model fp32 on CPUExecutionProvider, batch 8: largest difference to PyTorch is 0.25, above 0.1 (a.jpg)"
    ]
    assert failing(rows, Thresholds(0.8, None)) == [
        "model fp32 on CPUExecutionProvider, batch 8: SRCC to the labels is 0.500000, below 0.8"
    ]


def test_without_labels_the_srcc_limit_is_held_against_pytorch() -> None:
    rows = [
        measured_row(srcc=None, srcc_reference=0.9),
        plain_row(role="reference", words={"srcc_reference": "reference"}),
    ]
    offences = failing(rows, Thresholds(0.99, None))
    assert len(offences) == 1
    assert "SRCC to PyTorch is 0.900000, below 0.99" in offences[0]


def test_what_could_not_be_measured_does_not_pass_a_limit() -> None:
    failed = plain_row(status="crashed", reason="SIGSEGV")
    wordy = measured_row(
        srcc=None, max_difference=None, words={"srcc": "constant labels", "max_difference": "no reference"}
    )
    assert failing([failed, wordy], Thresholds()) == []
    first, second, third = failing([failed, wordy], Thresholds(0.5, 0.1))
    assert "crashed: SIGSEGV" in first
    assert "constant labels" in second
    assert "no reference" in third


@pytest.mark.parametrize(
    "text", ["baseline", "baseline:", "baseline:fast", ":1.2", "baseline:0", "baseline:nan", "a:-1"]
)
def test_a_mistyped_limit_of_slowness_is_one_clear_line(text: str) -> None:
    with pytest.raises(MusiqError, match=r"is not NAME:RATIO .* for example baseline:1\.2"):
        SpeedThreshold.parse(text)


def test_a_name_that_means_no_row_is_known_before_anything_is_measured(two: list[Path]) -> None:
    cases = cases_of(two, "compile")
    for name in ("baseline", "model", "model.onnx", "best.safetensors"):
        SpeedThreshold(name, 1.2).check(cases)
    with pytest.raises(MusiqError, match=r"'modle' is no model of this run; name one by its file: baseline, best"):
        SpeedThreshold("modle", 1.2).check(cases)
    with pytest.raises(MusiqError, match="needs PyTorch timed in this run"):
        SpeedThreshold("baseline", 1.2).check(cases_of(two, "none"))
    other = artifact(two[0].parent / "model.pt2", two[0])
    with pytest.raises(MusiqError, match="'model' means several models"):
        SpeedThreshold("model", 1.2).check([*cases, *plan_cases([describe(other)], two[0], TWO)])


def timed(model: str, p50: float | None, batch: int = 1, role: str = "candidate") -> ReportRow:
    latency = summarise([[p50] * 5]) if p50 else None
    path = "best.safetensors" if role == "reference" else f"{model}.onnx"
    provider = "PyTorch cpu" if role == "reference" else "ORT"
    facts: dict[str, Any] = {"height": 64, "width": 96, "reference": "best.safetensors", "latency_ms": latency}
    return ReportRow(model, path, "ab" * 32, "onnx", role, "fp32", "auto", batch, provider=provider, **facts)


def test_rows_slower_than_the_baseline_of_their_batch_size_offend() -> None:
    base = [timed("best", 10.0, 1, "reference"), timed("best", 100.0, 8, "reference")]
    found = [*base, timed("quick", 11.9), timed("quick", 130.0, 8), timed("slow", None)]
    first, second = failing(found, Thresholds(speed=SpeedThreshold("baseline", 1.2)))
    assert first == "quick fp32 on ORT, batch 8: p50 130 ms is 1.30 times the 100 ms of baseline, above 1.2"
    assert "there is no p50 of slow fp32 on ORT, batch 1" in second
    assert failing(found[2:3], Thresholds(speed=SpeedThreshold("baseline", 1.2))) == [
        "quick fp32 on ORT, batch 1: at most 1.2 times baseline is wanted, and there is no p50 of baseline at batch 1"
    ]
