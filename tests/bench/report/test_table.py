"""The table in the terminal: what it has room for, and the lines below it."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from rich.console import Console

from musiq_bench.report.schema import Report
from musiq_bench.report.table import caption, remarks, show
from tests.made_report import MORE, RUNTIMES, any_row, made_report, measured_row, plain_row, small_report

PT2 = ("pt2", "PyTorch cpu", "fp32", 1.0)


MODELS = ("resnet50-classic-1024x768", "musiq-1024x768")


def rendered(report: Report, width: int) -> list[str]:
    return text_of(report, width).splitlines()


def text_of(report: Report, width: int) -> str:
    out = io.StringIO()
    show(report, Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("width", [80, 100, 140, 180])
def test_every_row_keeps_its_name_and_whole_figures_at_every_width(width: int, labelled: bool) -> None:
    report = made_report(MODELS, (1, 8), [*RUNTIMES, *MORE, PT2], labelled)
    lines = rendered(report, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for row in report.rows:
        assert row.latency_ms is not None
        assert f"{row.latency_ms.p50:.1f}" in text
        assert row.srcc is None or f"{row.srcc:.4f}" in text
    assert sum(line.split()[0].startswith(("musiq-102", "resnet50-c")) for line in lines[3:] if line.strip()) >= 20
    assert "pt2 cpu" in text


def test_more_is_said_where_there_is_more_room() -> None:
    report = made_report(MODELS)
    titles = [set(rendered(report, width)[1].split()) for width in (80, 100, 120, 140, 180)]
    assert all(less <= more for less, more in pairwise(titles))
    assert len(titles[0]) < len(titles[2]) < len(titles[4])
    assert {"model", "batch", "p50", "diff", "SRCC"} <= titles[0]
    assert {"load", "peak", "file"} <= titles[4]


def test_the_table_fits_100_columns_and_has_more_where_it_is_wider() -> None:
    long = plain_row(role="candidate", model="a-rather-long-name-of-a-model", status="out of memory", reason="no room")
    found = small_report(measured_row(load_s=1.5, file_mb=104.7), measured_row(batch=128, images_per_s=12345.6), long)
    narrow = text_of(found, 100)
    assert max(map(len, narrow.splitlines())) <= 100
    for title in ("p50 ms", "p90 ms", "img/s", "max diff", "SRCC ref", "PLCC"):
        assert title in narrow
    assert "0.8123" in narrow
    assert "out of memory: no room" in narrow
    assert "load s" not in narrow
    assert "load s" in text_of(found, 200)
    assert "PLCC" not in text_of(small_report(measured_row(), labels=False), 100)
    assert "a-rather-long" in text_of(found, 200)
    eighty = text_of(small_report(measured_row(), measured_row(srcc=-0.5, plcc=-0.5)), 80).splitlines()
    assert max(map(len, eighty)) <= 80
    assert "ORT CPU" in eighty[3]


def test_a_word_stands_in_the_cell_of_a_figure_that_does_not_exist() -> None:
    found = text_of(small_report(measured_row(srcc=None, words={"srcc": "constant labels"})), 100)
    assert "constant" in found.splitlines()[3]


def test_one_thing_to_say_of_several_batch_sizes_is_said_once() -> None:
    report = made_report(runtimes=RUNTIMES)
    for row in report.rows:
        row.srcc_delta = None
        row.notes = ["not checked when it was exported"]
    report.rows[1].notes = ["another"]
    said = remarks(report)
    assert "model on ORT CPU, batch 1 and 8: not checked when it was exported" in said
    assert "model on PyTorch cpu, batch 8: another" in said


def test_images_of_several_sizes_are_told_apart() -> None:
    report = made_report(batches=(1,), runtimes=RUNTIMES[:1] * 2)
    assert "size" not in rendered(report, 100)[1].split()
    report.rows[1].width, report.rows[1].height = 4000, 3000
    for row in report.rows:
        row.notes = ["not timed"]
    lines = rendered(report, 100)
    assert lines[1].split().index("size") < lines[1].split().index("batch")
    assert [word for line in lines[3:5] for word in line.split() if "x" in word] == ["1024x768", "4000x3000"]
    assert "model on PyTorch cpu at 4000x3000, batch 1: not timed" in remarks(report)


def test_a_model_for_any_size_stands_beside_one_for_a_fixed_size_and_below_by_size() -> None:
    fixed = measured_row(width=1024, height=768)
    report = small_report(fixed, any_row(notes=["not checked"]), plain_row(status="failed", reason="no room"))
    lines = text_of(report, 120).splitlines()
    assert "size" in lines[1].split()
    assert "1024x768" in lines[3].split()
    assert "any" in lines[4].split()[1:]
    (below,) = [line for line in lines if line.startswith("p50 (p90) in ms by megapixels")]
    heading, _, row = lines[lines.index(below) + 2 : lines.index(below) + 5]
    assert heading.split()[-2:] == ["0.25-0.5", "2-4"]
    small = [ms for place, ms in enumerate(np.linspace(10, 20, 120)) if place % 3 < 2]
    assert row.split()[-2] == f"{np.median(small):.1f}", "80 calls have no 90th percentile"
    assert "any on ORT CPU at any size, batch 1: not checked" in remarks(report)
    assert not any(line.startswith("Latencies vary") and "any on" in line for line in remarks(report))
    assert caption(report).startswith("48 images at 1024x768 and their own sizes (1 that cannot be read left out).")
    assert caption(small_report(any_row())).startswith("48 images at their own sizes")
    assert "any" in text_of(small_report(any_row()), 100).splitlines()[3].split()[1:], (
        "not as a fixed size, which is said"
    )


def test_the_paired_difference_is_told_below_the_table_and_not_where_it_has_a_column() -> None:
    report = made_report(batches=(1,))
    assert any("from PyTorch's, 95% interval" in line for line in remarks(report))
    assert not any("from PyTorch's" in line for line in remarks(report, paired=False))


def test_of_many_unsteady_rows_the_worst_are_named() -> None:
    report = made_report(MODELS)
    (line,) = [line for line in remarks(report) if line.startswith("Latencies vary")]
    worst = max(report.rows, key=lambda row: (row.latency_ms and row.latency_ms.cv) or 0.0)
    assert line.split(": ")[1].startswith(worst.model)
    assert line.endswith(" rows more.")
