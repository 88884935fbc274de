"""The benchmark's arithmetic, limits and words, without measuring anything."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from musiq.artifact import Check, Record, write_record
from musiq.errors import MusiqError
from musiq.files import sha256
from musiq.spec import preset
from musiq_bench.compare.thresholds import Limits, offending
from musiq_bench.machine import environment
from musiq_bench.measure.worker import diagnose
from musiq_bench.plan.models import describe, find_models, reference_of, short_names
from musiq_bench.report.latency import Latency, summarise
from musiq_bench.report.quality import against_labels, against_reference
from musiq_bench.report.schema import SCHEMA, Report, Row
from musiq_bench.report.table import show
from musiq_bench.report.write import write


def row(**fields: object) -> Row:
    basics = Row("model", "exports/model.onnx", "ab" * 32, "onnx", "candidate", "fp32", "auto", 1)
    return dataclasses.replace(basics, **{"provider": "CPUExecutionProvider", **fields})  # type: ignore[arg-type]


def report(*rows: Row, labels: bool = True) -> Report:
    where = {"cpu": "a CPU", "cores": 2, "gpus": [], "versions": {"numpy": "2"}, "python": "3.11"}
    described = {"source": "labels.csv", "target": "mos of set/labels.csv", "split": "test", "n": 48}
    images = {"used": 48, "broken": [{"path": "x.jpg", "reason": "empty"}]}
    return Report("now", "musiq-bench", where, {}, images, described if labels else None, "a caption", list(rows))


def measured(n: int = 100, **fields: object) -> Row:
    latency = summarise([np.linspace(10, 20, n).tolist()])
    figures = {"latency_ms": latency, "images_per_s": 66.7, "max_difference": 3e-6, "srcc_reference": 0.99999}
    return row(**{**figures, "srcc": 0.81234, "plcc": 0.79, **fields})


def test_percentiles_are_numpys_over_all_rounds_together() -> None:
    rng = np.random.default_rng(1)
    rounds = [rng.gamma(3, size=500).tolist() for _ in range(2)]
    found = summarise(rounds)
    assert found is not None
    pooled = np.concatenate(rounds)
    expected = np.quantile(pooled, [0.5, 0.9, 0.95, 0.99])
    np.testing.assert_allclose([found.p50, found.p90, found.p95, found.p99], expected)
    assert found.cv == pytest.approx(stats.variation(pooled, ddof=1))
    assert found.rounds_p50 == pytest.approx([np.median(each) for each in rounds])


@pytest.mark.parametrize(
    ("n", "given"),
    [(1, ""), (5, "p50"), (99, "p50"), (100, "p50 p90"), (200, "p50 p90 p95"), (1000, "p50 p90 p95 p99")],
)
def test_a_percentile_is_given_only_where_the_calls_support_it(n: int, given: str) -> None:
    found = summarise([list(range(1, n + 1))])
    assert found is not None
    assert [q for q in ("p50", "p90", "p95", "p99") if getattr(found, q) is not None] == given.split()


def test_no_call_has_no_latency() -> None:
    assert summarise([[], []]) is None


def test_differences_to_the_reference_are_numpys_and_name_the_image() -> None:
    theirs = np.array([1.0, 2.0, 3.0, 4.0])
    ours = theirs + np.array([0.0, 0.25, -0.5, 0.0])
    found = against_reference(ours, theirs)
    assert found.figures == {
        "max_difference": 0.5,
        "mean_difference": 0.1875,
        "srcc_reference": pytest.approx(stats.spearmanr(ours, theirs).statistic),
        "difference_at": 2,
    }
    assert not found.words


@pytest.mark.parametrize(
    ("scores", "labels", "word"),
    [
        ([1.0], [2.0], "fewer than 3 images"),
        ([1.0, 2.0, 3.0], [5.0, 5.0, 5.0], "constant labels"),
        ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0], "constant scores"),
        ([1.0, math.nan, 3.0], [1.0, 2.0, 3.0], "a score or label is not a number"),
    ],
)
def test_a_degenerate_comparison_gets_a_word_and_no_number(scores: list[float], labels: list[float], word: str) -> None:
    found = against_labels(scores, labels, reference=labels)
    assert found.figures["srcc"] is found.figures["srcc_interval"] is found.figures["srcc_delta"] is None
    assert found.words["srcc"] == found.words["plcc"] == found.words["srcc_delta"] == word
    json.dumps(found.figures, allow_nan=False)


def test_a_score_that_is_no_number_leaves_no_difference() -> None:
    found = against_reference([1.0, math.nan, math.inf, 4.0], [1.0, 2.0, 3.0, 4.0])
    assert found.figures["max_difference"] is found.figures["difference_at"] is None
    assert found.words["max_difference"] == "2 scores are not numbers"


def test_intervals_hold_the_figure_and_are_about_as_wide_as_the_analytic_one() -> None:
    rng = np.random.default_rng(2)
    labels = rng.normal(size=200)
    scores = labels + rng.normal(size=200)
    found = against_labels(scores, labels).figures
    for name in ("srcc", "plcc", "krcc", "rmse"):
        low, high = found[f"{name}_interval"]
        assert low < found[name] < high
    assert found["plcc_fitted_interval"] is None
    scipys = stats.pearsonr(scores, labels).confidence_interval()
    low, high = found["plcc_interval"]
    assert (high - low) == pytest.approx(scipys.high - scipys.low, rel=0.25)


def test_the_paired_difference_is_far_narrower_than_either_interval() -> None:
    rng = np.random.default_rng(3)
    labels = rng.normal(size=200)
    theirs = labels + rng.normal(size=200)
    found = against_labels(theirs + 1e-3 * rng.normal(size=200), labels, theirs).figures
    paired = np.ptp(found["srcc_delta_interval"])
    assert paired < 0.1 * np.ptp(found["srcc_interval"])
    assert found["srcc_delta_interval"][0] <= found["srcc_delta"] <= found["srcc_delta_interval"][1]


def test_limits_name_the_row_and_the_figure_that_offends() -> None:
    rows = [measured(), measured(batch=8, max_difference=0.25, difference_at="a.jpg", srcc=0.5)]
    assert offending(rows, Limits()) == []
    assert offending(rows, Limits(None, 1.0)) == []
    assert offending(rows, Limits(None, 0.1)) == [
        "model fp32 on CPUExecutionProvider, batch 8: largest difference to PyTorch is 0.25, above 0.1 (a.jpg)"
    ]
    assert offending(rows, Limits(0.8, None)) == [
        "model fp32 on CPUExecutionProvider, batch 8: SRCC to the labels is 0.500000, below 0.8"
    ]


def test_without_labels_the_srcc_limit_is_held_against_pytorch() -> None:
    rows = [measured(srcc=None, srcc_reference=0.9), row(role="reference", words={"srcc_reference": "reference"})]
    offences = offending(rows, Limits(0.99, None))
    assert len(offences) == 1
    assert "SRCC to PyTorch is 0.900000, below 0.99" in offences[0]


def test_what_could_not_be_measured_does_not_pass_a_limit() -> None:
    failed = row(status="crashed", reason="SIGSEGV")
    wordy = measured(
        srcc=None, max_difference=None, words={"srcc": "constant labels", "max_difference": "no reference"}
    )
    assert offending([failed, wordy], Limits()) == []
    first, second, third = offending([failed, wordy], Limits(0.5, 0.1))
    assert "crashed: SIGSEGV" in first
    assert "constant labels" in second
    assert "no reference" in third


def rendered(found: Report, width: int) -> str:
    out = io.StringIO()
    show(found, Console(file=out, width=width))
    return out.getvalue()


def test_the_table_fits_100_columns_and_has_more_where_it_is_wider() -> None:
    long = row(role="candidate", model="a-rather-long-name-of-a-model", status="out of memory", reason="no room")
    found = report(measured(load_s=1.5, file_mb=104.7), measured(batch=128, images_per_s=12345.6), long)
    narrow = rendered(found, 100)
    assert max(map(len, narrow.splitlines())) <= 100
    for title in ("p50 ms", "p90 ms", "img/s", "max diff", "SRCC ref", "PLCC"):
        assert title in narrow
    assert "0.8123" in narrow
    assert "out of memory: no room" in narrow
    assert "load s" not in narrow
    assert "load s" in rendered(found, 200)
    assert "PLCC" not in rendered(report(measured(), labels=False), 100)
    assert "a-rather-long" in rendered(found, 200)
    eighty = rendered(report(measured(), measured(srcc=-0.5, plcc=-0.5)), 80).splitlines()
    assert max(map(len, eighty)) <= 80
    assert "ORT CPU" in eighty[3]


def test_a_word_stands_in_the_cell_of_a_figure_that_does_not_exist() -> None:
    found = rendered(report(measured(srcc=None, words={"srcc": "constant labels"})), 100)
    assert "constant" in found.splitlines()[3]


def test_the_three_files_hold_the_same_rows(tmp_path: Path) -> None:
    failed = row(status="failed", reason="a | b")
    json_path, csv_path, md_path, *_ = write(report(measured(srcc_interval=[0.7, 0.9]), failed), tmp_path)
    loaded = json.loads(json_path.read_text())
    assert loaded["schema"] == SCHEMA
    assert [each["status"] for each in loaded["rows"]] == ["ok", "failed"]
    assert set(loaded["rows"][0]) == {field.name for field in dataclasses.fields(Row)}
    first, second = csv.DictReader(csv_path.open(newline=""))
    assert float(first["latency_ms.p50"]) == loaded["rows"][0]["latency_ms"]["p50"] == 15
    assert (first["srcc_interval.low"], first["srcc_interval.high"]) == ("0.7", "0.9")
    assert second["reason"] == "a | b"
    lines = [line for line in md_path.read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_peak_memory_and_cores_are_plausible() -> None:
    found = environment.describe()
    assert found["cores"] >= 1
    peak = environment.peak_memory_mib()
    assert peak is not None
    assert 10 < peak < 1024 * found["memory_gib"]
    assert found["versions"]["numpy"] == np.__version__


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (ModuleNotFoundError("No module named 'openvino'"), "missing package"),
        (ValueError("two\nlines"), "failed"),
    ],
)
def test_an_exception_becomes_a_status_by_its_kind(problem: Exception, status: str) -> None:
    wrapped = MusiqError("It did not work. Do this.")
    wrapped.__cause__ = problem
    assert diagnose(wrapped) == (status, "It did not work. Do this.")
    assert diagnose(problem)[0] == status
    assert "\n" not in diagnose(problem)[1]


def artifact(path: Path, checkpoint: dict[str, str], check: Check | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"graph " + str(path).encode())
    write_record(path, Record(preset("tiny"), "onnx", "fp16", sha256(path), checkpoint, check=check))
    return path


def test_an_artifact_finds_the_checkpoint_that_it_was_exported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "runs" / "first" / "best.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    named = {"name": "best.safetensors", "sha256": sha256(weights)}
    found = describe(artifact(Path("exports/model.onnx"), named))
    assert (found.format, found.precision) == ("onnx", "fp16")
    reference, doubt = reference_of(found, None)
    assert reference is not None
    assert reference.path.resolve() == weights
    assert (reference.height, reference.width, doubt) == (192, 256, "")

    weights.write_bytes(b"other weights")
    reference, why = reference_of(found, None)
    assert reference is None
    assert "best.safetensors was not found as it was" in why
    reference, why = reference_of(found, describe(weights))
    assert reference is None
    assert "it was not exported from best.safetensors" in why


def test_a_foreign_artifact_takes_the_given_checkpoint_with_a_doubt(tmp_path: Path) -> None:
    weights, graph = tmp_path / "best.safetensors", tmp_path / "model.onnx"
    weights.write_bytes(b"weights")
    graph.write_bytes(b"graph")
    reference, doubt = reference_of(describe(graph), describe(weights))
    assert reference == describe(weights)
    assert doubt == "no record says that it was exported from best.safetensors"
    assert reference_of(describe(graph), None) == (None, "no record names its checkpoint; give it with --checkpoint")


def test_models_are_found_in_folders_and_told_apart_by_theirs(tmp_path: Path) -> None:
    for name in ("a/model.onnx", "b/model.onnx", "b/other.onnx", "b/.part-1-x.onnx", "b/model.onnx.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_models([tmp_path, tmp_path / "a" / "model.onnx"])
    assert [short_names(found)[each] for each in found] == ["a/model", "b/model", "other"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("no.onnx", "Cannot read"), ("notes.txt", "is of no known kind"), ("empty", "There is no model in")],
)
def test_what_is_no_model_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MusiqError, match=message):
        find_models([tmp_path / name])


def test_the_latency_schema_keeps_its_names() -> None:
    names = [field.name for field in dataclasses.fields(Latency)]
    assert names == ["n", "mean", "min", "max", "cv", "p50", "p90", "p95", "p99", "rounds_p50", "samples"]
