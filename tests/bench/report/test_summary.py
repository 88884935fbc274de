"""`python -m musiq_bench.report.summary`: the tables of docs/benchmarks.md, a line for each artifact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

from musiq_bench.report.schema import ReportRow
from musiq_bench.report.summary import main, summary_table
from musiq_bench.report.write import write
from tests.made_report import MORE, RUNTIMES, any_row, label, made_report, made_row

PYTORCH, ONNX = RUNTIMES
INT8 = MORE[0]


def made(batches: tuple[int, ...] = (1,)) -> list[ReportRow]:
    rng = np.random.default_rng(0)
    # The least likely order: the table sorts.
    return [made_row("model", runtime, batch, rng) for batch in batches for runtime in (INT8, ONNX, PYTORCH)]


def table(*given: Any, **options: Any) -> list[str]:
    return summary_table(*given, **options).splitlines()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def column(lines: list[str], title: str) -> list[str]:
    return [cells(line)[cells(lines[0]).index(title)] for line in lines[2:]]


def test_pytorch_comes_first_and_the_model_is_named_once() -> None:
    lines = table(made())
    assert column(lines, "runs on") == ["PyTorch eager", "ONNX Runtime", "ONNX Runtime"]
    assert column(lines, "precision") == ["fp32", "fp32", "int8"]
    assert column(lines, "model") == ["`model`", "", ""]


def test_speed_is_the_ratio_of_medians_to_pytorch_at_the_smallest_batch() -> None:
    rows = made((8, 1))
    p50 = {(row.format, row.precision): row.latency_ms.p50 for row in rows if row.batch == 1 and row.latency_ms}
    eager, int8 = p50["pytorch", "fp32"], p50["onnx", "int8"]
    assert eager is not None
    assert int8 is not None
    lines = table(rows)
    assert column(lines, "times as fast as PyTorch")[2] == f"{eager / int8:.2f}"
    speeds = {row.format + row.precision: row.images_per_s for row in rows if row.batch == 8}
    assert column(lines, "images/s (batch)")[0] == f"{speeds['pytorchfp32']:.1f} (8)"


def test_each_device_has_a_line_and_pytorch_in_half_precision_is_no_measure() -> None:
    rows = made()
    rows.append(replace(rows[1], device="cuda-graph:0"))
    rows.append(replace(rows[2], precision="fp16", role="baseline"))
    lines = table(rows)
    assert column(lines, "runs on") == [
        "PyTorch eager",
        "ONNX Runtime",
        "ONNX Runtime, CUDA graph",
        "PyTorch eager",
        "ONNX Runtime",
    ]
    assert column(lines, "precision") == ["fp32", "fp32", "fp32", "fp16", "int8"]
    assert column(lines, "times as fast as PyTorch")[0] == "1.00"
    assert column(lines, "times as fast as PyTorch")[1] == column(lines, "times as fast as PyTorch")[2]


def test_a_model_for_any_size_is_held_against_pytorch_at_any_size_by_images_per_second() -> None:
    fixed = made()[1:]
    theirs = {"model": "model", "reference": "exports/model.pytorch"}
    eager = any_row(format="pytorch", path="exports/model.pytorch", role="reference", images_per_s=10.0, **theirs)
    lines = table([*fixed, eager, any_row(images_per_s=25.0, **theirs)])
    assert column(lines, "size") == ["1024x768", "any", "1024x768", "any"]
    assert column(lines, "runs on")[::2] == ["PyTorch eager", "ONNX Runtime"]
    assert column(lines, "times as fast as PyTorch")[1::2] == ["1.00", "2.50"]
    assert "size" not in cells(table(fixed)[0])


def test_half_precision_that_openvino_computes_in_fp32_is_named_so() -> None:
    one = replace(made()[1], format="openvino", precision="bf16")
    rows = [replace(one, provider=f"OpenVINO CPU {inside}") for inside in ("f32", "bf16")]
    assert [column(table([row]), "precision") for row in rows] == [["bf16 (computed in fp32)"], ["bf16"]]
    assert column(table([replace(rows[0], precision="fp32")]), "precision") == ["fp32"]


def test_columns_without_a_figure_are_left_out_and_labels_bring_theirs() -> None:
    assert "SRCC" not in cells(table(made())[0])
    assert "layers" not in cells(table(made())[0])
    rows = [label(row, 0.81) for row in made()]
    rows[0].layers, rows[0].build_s = "117 MatMul; 9 others", 98.4
    lines = table(rows)
    assert column(lines, "SRCC") == ["0.8100"] * 3
    assert column(lines, "SRCC minus PyTorch's, 95% interval")[1] == "-0.01000 (-0.01100 to -0.00900)"
    assert column(lines, "layers") == ["", "", "117 MatMul; 9 others"]
    assert column(lines, "built s") == ["", "", "98"]
    assert cells(table(rows, columns=["MB"])[0]) == ["model", "MB"]


def test_a_row_that_failed_says_why() -> None:
    rows = made()
    rows[1].status, rows[1].reason, rows[1].latency_ms = "out of memory", "killed", None
    assert "out of memory: killed" in cells(table(rows)[3])


def test_a_row_of_too_few_calls_for_a_median_has_none_and_no_ratio() -> None:
    rows = made()
    assert rows[1].latency_ms is not None
    rows[1].latency_ms = replace(rows[1].latency_ms, p50=None)
    lines = table(rows)
    assert column(lines, "p50 ms")[1] == column(lines, "times as fast as PyTorch")[1] == ""
    assert column(lines, "p50 ms")[0] != ""


def test_batch_sizes_stand_beside_each_other_where_asked() -> None:
    rows = made((8, 1))
    rows = [row for row in rows if (row.format, row.precision, row.batch) != ("onnx", "int8", 8)]
    lines = table(rows, by_batch=True)
    figures = [f"{title}, batch {batch}" for title in ("images/s", "peak MiB", "CV %") for batch in (1, 8)]
    assert cells(lines[0]) == ["model", "runs on", "precision", *figures]
    speeds = {(row.format, row.batch): row.images_per_s for row in rows if row.precision == "fp32"}
    assert column(lines, "images/s, batch 1")[:2] == [f"{speeds[it, 1]:.2f}" for it in ("pytorch", "onnx")]
    assert column(lines, "images/s, batch 8") == [*(f"{speeds[it, 8]:.2f}" for it in ("pytorch", "onnx")), ""]
    assert "start s" in cells(table(rows, columns=["start s"], by_batch=True)[0])


def test_the_command_puts_several_reports_into_one_table(tmp_path: Path) -> None:
    write(made_report(("one",)), tmp_path / "a")
    report = made_report(("two",))
    for row in report.rows:
        row.reference = "exports/two.pytorch"
    write(report, tmp_path / "b")
    done = CliRunner().invoke(main, [str(tmp_path / "a"), str(tmp_path / "b"), "--by-batch"])
    assert done.exit_code == 0, done.output
    assert column(done.output.splitlines(), "model") == ["`model`", "", "", "", "`two`", "", "", ""]


def test_the_command_reads_a_report_and_takes_the_models_asked_for(tmp_path: Path) -> None:
    write(made_report(), tmp_path)
    done = CliRunner().invoke(main, [str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "| ONNX Runtime | fp32 |" in done.output
    none = CliRunner().invoke(main, [str(tmp_path), "--model", "another"])
    assert len(none.output.splitlines()) == 2
