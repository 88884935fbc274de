"""musiq-bench --compare: what it calls a change, and what it calls noise."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from musiq.errors import MusiqError
from musiq_bench.compare.reports import compare, show_comparison
from musiq_bench.compare.significance import latency_change, spearman_interval, srcc_change
from musiq_bench.report.latency import Latency, summarise
from musiq_bench.report.read import read
from musiq_bench.report.schema import Report
from musiq_bench.report.write import write
from tests.made_report import RUNTIMES, made_report


def latency(middle: float, rounds: int, calls: int, seed: int, drift: float = 0.02, scatter: float = 0.03) -> Latency:
    rng = np.random.default_rng(seed)
    taken = [middle * rng.lognormal(0, drift) * rng.lognormal(0, scatter, calls) for _ in range(rounds)]
    found = summarise([each.tolist() for each in taken])
    assert found is not None
    return found


def shown(old: Report, new: Report, width: int = 100) -> str:
    out = io.StringIO()
    show_comparison(old, new, Console(file=out, width=width))
    return out.getvalue()


def test_the_interval_of_a_latency_is_as_wide_as_welchs() -> None:
    old, new = latency(100, 4, 200, seed=1, drift=0.05), latency(90, 6, 200, seed=2, drift=0.05)
    found = latency_change(old, new)
    assert found is not None
    logs = [np.log(each.rounds_p50) for each in (new, old)]
    welch = stats.ttest_ind(*logs, equal_var=False).confidence_interval()
    assert math.log((1 + found.high) / (1 + found.low)) == pytest.approx(welch.high - welch.low)
    assert found.low < found.difference < found.high
    assert old.p50 is not None
    assert found.difference == pytest.approx((new.p50 or 0) / old.p50 - 1)


def test_two_runs_of_one_thing_are_called_different_no_more_than_1_time_in_20() -> None:
    for rounds in (1, 3, 5):
        drift = 0.0 if rounds == 1 else 0.02  # one round cannot know how the next would differ
        pairs = [(latency(50, rounds, 60, 2 * i, drift), latency(50, rounds, 60, 2 * i + 1, drift)) for i in range(300)]
        found = [latency_change(old, new) for old, new in pairs]
        assert sum(change is not None and change.word != "same" for change in found) <= 25


@pytest.mark.parametrize(("ratio", "word"), [(0.8, "faster"), (1.25, "slower"), (1.005, "same"), (0.995, "same")])
def test_a_change_beyond_noise_has_a_name(ratio: float, word: str) -> None:
    old, new = latency(50, 5, 100, seed=3, drift=0.002), latency(50 * ratio, 5, 100, seed=4, drift=0.002)
    found = latency_change(old, new)
    assert found is not None
    assert found.word == word


def test_without_a_median_there_is_no_change_of_it() -> None:
    assert latency_change(latency(50, 1, 3, seed=0), latency(50, 1, 100, seed=1)) is None


def test_the_interval_of_a_rank_correlation_covers_what_is_true() -> None:
    rng = np.random.default_rng(0)
    true, n = 0.8, 100
    rho = 2 * math.sin(math.pi / 6 * true)  # of the normal variables whose Spearman correlation is `true`
    hits = 0
    for _ in range(400):
        x, y = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], n).T
        low, high = spearman_interval(float(stats.spearmanr(x, y).statistic), n)
        hits += low <= true <= high
    assert 0.91 <= hits / 400 <= 0.98
    assert spearman_interval(1.0, 50) == (1.0, 1.0)
    assert spearman_interval(0.5, 3) == (-1.0, 1.0)


def test_quality_is_worse_only_where_the_intervals_say_so() -> None:
    assert srcc_change(0.82, (0.77, 0.86), 0.80, (0.75, 0.84)).word == "same"
    assert srcc_change(0.82, (0.81, 0.83), 0.70, (0.69, 0.71)).word == "worse"
    assert srcc_change(0.70, (0.69, 0.71), 0.82, (0.81, 0.83)).word == "better"
    assert srcc_change(0.99999, (0.999985, 0.999995), 0.9998, (0.99975, 0.99985)).word == "same"
    # Zou's formula for the difference of two figures with intervals, by hand.
    found = srcc_change(0.6, (0.5, 0.68), 0.5, (0.38, 0.6))
    assert found.low == pytest.approx(-0.1 - math.sqrt(0.12**2 + 0.08**2))
    assert found.high == pytest.approx(-0.1 + math.sqrt(0.1**2 + 0.1**2))


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


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_comparison_fits_and_keeps_its_figures_whole(width: int) -> None:
    report = made_report(("a-rather-long-name-of-a-model-1024x768",), runtimes=RUNTIMES)
    said = shown(report, report, width)
    assert max(map(len, said.splitlines())) <= width
    assert report.rows[0].latency_ms is not None
    assert f"{report.rows[0].latency_ms.p50:.1f}" in said
    assert "+0.0%" in said
    assert ("95%" in said) == (width == 140)


def test_a_report_reads_back_as_it_was_written(tmp_path: Path) -> None:
    report = made_report()
    write(report, tmp_path)
    assert asdict(read(tmp_path)) == asdict(report)
    values = json.loads((tmp_path / "report.json").read_text())
    values["later"] = values["rows"][0]["later"] = values["rows"][0]["latency_ms"]["later"] = 1
    del values["rows"][0]["latency_ms"]["samples"]
    (tmp_path / "other.json").write_text(json.dumps(values))
    first = read(tmp_path / "other.json").rows[0]
    assert first.latency_ms is not None
    assert first.latency_ms.samples == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "Cannot read"),
        ("{", "is not JSON"),
        ("[1]", "has the schema None, not 'musiq-bench/1'"),
        ('{"schema": "musiq-bench/9"}', "has the schema 'musiq-bench/9'"),
        ('{"schema": "musiq-bench/1"}', "is not whole"),
        ('{"schema": "musiq-bench/1", "rows": [{"model": "x"}]}', "is not whole"),
    ],
)
def test_what_is_no_report_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(MusiqError, match="musiq-bench") as caught:
        read(path)
    assert message in str(caught.value)


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
