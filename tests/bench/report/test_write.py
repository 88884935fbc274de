"""The written files: the same rows in each, and what stays away without a package."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from pathlib import Path

import pytest

from musiq.errors import MusiqError
from musiq_bench.report.plots import draw
from musiq_bench.report.schema import SCHEMA, ReportRow
from musiq_bench.report.write import write
from tests.made_report import any_row, made_report, measured_row, plain_row, small_report


def test_the_three_files_hold_the_same_rows(tmp_path: Path) -> None:
    failed = plain_row(status="failed", reason="a | b")
    json_path, csv_path, md_path, *_ = write(small_report(measured_row(srcc_interval=[0.7, 0.9]), failed), tmp_path)
    loaded = json.loads(json_path.read_text())
    assert loaded["schema"] == SCHEMA
    assert [each["status"] for each in loaded["rows"]] == ["ok", "failed"]
    assert set(loaded["rows"][0]) == {field.name for field in dataclasses.fields(ReportRow)}
    first, second = csv.DictReader(csv_path.open(newline=""))
    assert float(first["latency_ms.p50"]) == loaded["rows"][0]["latency_ms"]["p50"] == 15
    assert (first["srcc_interval.low"], first["srcc_interval.high"]) == ("0.7", "0.9")
    assert second["reason"] == "a | b"
    lines = [line for line in md_path.read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_latencies_by_size_stand_in_every_file(tmp_path: Path) -> None:
    json_path, csv_path, md_path, page, *_ = write(small_report(measured_row(), any_row()), tmp_path)
    fixed, mixed = json.loads(json_path.read_text())["rows"]
    assert fixed["by_size"] == []
    assert [(each["size"], each["n"]) for each in mixed["by_size"]] == [("0.25-0.5 MP", 80), ("2-4 MP", 40)]
    assert [row["by_size"] for row in csv.DictReader(csv_path.open(newline=""))] == [
        "",
        "; ".join(f"{each['size']}: {each['n']} calls, mean {each['mean']:.2f} ms" for each in mixed["by_size"]),
    ]
    assert f"| any | ORT CPU | fp32 | 1 | {mixed['by_size'][0]['p50']:.1f} | " in md_path.read_text()
    assert '<th scope="col" class="number">0.25-0.5</th>' in page.read_text()


def test_without_matplotlib_the_report_is_written_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MusiqError, match=r"pip install .*\[bench\]'"):
        draw(made_report())
    with pytest.warns(UserWarning, match="Plots need matplotlib"):
        written = write(made_report(), tmp_path)
    assert [path.name for path in written] == ["report.json", "report.csv", "report.md", "report.html"]
    assert "Plots need matplotlib" in (tmp_path / "report.html").read_text()


def test_without_jinja2_the_figures_and_plots_are_written_and_no_old_page_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.html").write_text("of an earlier run")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.warns(UserWarning, match=r"report.html needs Jinja2, which is missing: pip install .*\[bench\]'"):
        written = write(made_report(), tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert {path.suffix for path in written} == {".json", ".csv", ".md", ".png"}


def test_a_plot_of_an_earlier_report_does_not_stay_beside_this_one(tmp_path: Path) -> None:
    write(made_report(), tmp_path)
    assert (tmp_path / "images-per-second.png").exists()
    written = write(made_report(batches=(1,)), tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert {path.suffix for path in written} == {".json", ".csv", ".md", ".html", ".png"}
