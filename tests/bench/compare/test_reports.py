"""musiq-bench --compare: what it tells of two reports."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from musiq_bench.compare.reports import compare, show_comparison
from musiq_bench.report.latency import summarise
from musiq_bench.report.schema import Report
from tests.made_report import RUNTIMES, any_row, made_report, measured_row, small_report


def shown(old: Report, new: Report, width: int = 100) -> str:
    out = io.StringIO()
    show_comparison(old, new, Console(file=out, width=width))
    return out.getvalue()


def test_a_paired_difference_tells_what_the_wide_intervals_cannot() -> None:
    old, new = made_report(batches=(1,)), made_report(batches=(1,))
    row = new.rows[1]
    assert row.srcc is not None
    assert row.srcc_delta is not None
    row.srcc, row.srcc_delta = row.srcc - 0.01, row.srcc_delta - 0.01
    row.srcc_delta_interval = [row.srcc_delta - 0.001, row.srcc_delta + 0.001]
    words = [pair.quality.word for pair in compare(old, new) if pair.quality]
    assert words == ["same", "worse", "same", "same"]
    new.rows[0].sha256 = "cd" * 32  # another reference: nothing is paired any more
    assert [pair.quality.word for pair in compare(old, new) if pair.quality] == ["same"] * 4


def test_a_model_at_a_fixed_size_is_not_compared_with_it_at_any() -> None:
    fixed, mixed = measured_row(model="m", role="reference"), any_row(model="m", role="reference")
    pairs = compare(small_report(fixed, mixed), small_report(mixed, fixed))
    assert [(pair.old is fixed, pair.new is fixed) for pair in pairs] == [(True, True), (False, False)]
    assert all(pair.latency and pair.latency.difference == 0 for pair in pairs)


def test_without_labels_the_agreement_with_pytorch_is_compared() -> None:
    old, new = made_report(labelled=False, batches=(1,)), made_report(labelled=False, batches=(1,))
    new.rows[2].srcc_reference = 0.95
    words = {pair.row.precision: pair.quality and pair.quality.word for pair in compare(old, new)[1:]}
    assert words == {"fp32": "same", "int8": "worse", "bf16": "same"}


def test_rows_of_one_report_alone_and_rows_that_failed_are_told() -> None:
    old, new = made_report(), made_report()
    gone, failed = old.rows[-1], new.rows[2]
    new.rows.pop()
    failed.status, failed.reason, failed.latency_ms = "crashed", "died with SIGSEGV", None
    new.rows[3].provider = "CUDAExecutionProvider"
    said = shown(old, new)
    assert f"{gone.model} on OpenVINO CPU, batch 8: only in the old report" in said
    assert "model on ORT CPU, batch 1: was measured, now crashed: died with SIGSEGV" in " ".join(said.split())
    assert "ran on CPUExecutionProvider, now on CUDAExecutionProvider" in " ".join(said.split())
    assert "only in the new report" in shown(new, old)
    assert "0 faster, 0 slower, 6 same in latency" in said


def test_another_machine_is_said_first() -> None:
    old, new = made_report(), made_report()
    assert "Different machines" not in shown(old, new)
    new.environment["cpu"] = "another CPU"
    new.environment["versions"] = {"numpy": "3"}
    new.labels = None
    said = shown(old, new)
    assert said.startswith("Different machines, so latencies say little of the models: a CPU, 2 cores; now another CPU")
    assert "Versions: numpy 2 -> 3." in said
    assert "Not the same labels" in said
    assert "Other programs" not in said
    new.environment["load_average"] = [7.5, 1, 1]
    assert "Other programs were running (load average 0, now 7.5)" in shown(old, new)


def test_another_device_is_told(tmp_path: Path) -> None:
    old, new = made_report(), made_report()
    assert "Settings" not in shown(old, new)
    new.settings["devices"] = ["cpu", "cuda:0"]
    assert "Settings: devices cpu -> cpu and cuda:0." in shown(old, new)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_comparison_fits_and_keeps_its_figures_whole(width: int) -> None:
    report = made_report(("a-rather-long-name-of-a-model-1024x768",), runtimes=RUNTIMES)
    said = shown(report, report, width)
    assert max(map(len, said.splitlines())) <= width
    assert report.rows[0].latency_ms is not None
    assert f"{report.rows[0].latency_ms.p50:.1f}" in said
    assert "+0.0%" in said
    assert ("95%" in said) == (width == 140)


def test_the_command_compares_two_written_reports_and_ends_with_0(tmp_path: Path) -> None:
    old, new = made_report(), made_report(seed=1)
    for row in new.rows:
        assert row.latency_ms is not None
        row.latency_ms = summarise([[2 * each for each in row.latency_ms.samples]] * 3)
    for name, report in (("old", old), ("new", new)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(asdict(report)))
    command = [sys.executable, "-m", "musiq_bench", "--compare"]
    done = subprocess.run([*command, "old", "new/report.json"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 faster, 8 slower, 0 same in latency" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    failed = subprocess.run([*command, "old", "nowhere"], cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: Cannot read nowhere")
    assert failed.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]
