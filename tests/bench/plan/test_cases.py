"""The cases of a run: baselines, devices and batch sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from musiq.artifact import Refusal, write_refusal
from musiq.errors import MusiqError
from musiq.presets import preset
from musiq_bench.plan.cases import BenchSettings, check_baselines, job_of, plan_cases
from musiq_bench.plan.models import describe
from tests.bench_cases import TWO, artifact, cases_of

pytest_plugins = ["tests.bench_fixtures"]


def test_baselines_are_rows_before_the_artifacts(two: list[Path]) -> None:
    def laid(*baselines: str) -> list[tuple[str, str, int, bool]]:
        return [(c.role, c.candidate.format, c.batch, c.timed) for c in cases_of(two, *baselines)]

    eager = [("reference", "pytorch", 1, True), ("reference", "pytorch", 8, True)]
    compiled = [("baseline", "torch.compile", 1, True), ("baseline", "torch.compile", 8, True)]
    exported = [("candidate", "onnx", 1, True), ("candidate", "onnx", 8, True)]
    assert laid() == laid("eager") == eager + exported
    assert laid("compile") == eager + compiled + exported
    assert laid("none") == [("reference", "pytorch", 1, False), *exported]


def test_baselines_in_half_precision_are_rows_of_their_own(two: list[Path]) -> None:
    cases = cases_of(two, "eager:fp16", "compile:bf16")
    told = [
        (case.role, case.candidate.format, case.candidate.precision, case.candidate.inside) for case in cases[::2][:3]
    ]
    assert told == [
        ("reference", "pytorch", "fp32", "float32 100%"),
        ("baseline", "pytorch", "fp16", None),
        ("baseline", "torch.compile", "bf16", None),
    ]
    assert [job_of(case, TWO, True).precision for case in cases[::2]] == ["fp32", "fp16", "bf16", "fp32"]


def test_of_several_devices_each_file_goes_where_its_kind_runs(two: list[Path]) -> None:
    fixed = artifact(two[0].parent / "fixed.onnx", two[0], batch=(8, 8))
    compiled = artifact(two[0].parent / "m.pt2", two[0])
    devices = ("cuda:0", "cuda-graph:0", "cuda-compile:0")
    models = [describe(path) for path in (two[1], fixed, compiled)]
    cases = plan_cases(models, two[0], BenchSettings(batches=(1, 8), devices=devices))
    laid: dict[tuple[str, str], list[int]] = {}
    for case in cases:
        laid.setdefault((case.candidate.path.name, case.candidate.device), []).append(case.batch)
    assert laid == {
        ("best.safetensors", "cuda:0"): [1, 8],
        ("model.onnx", "cuda:0"): [1, 8],
        ("fixed.onnx", "cuda:0"): [8],
        ("m.pt2", "cuda:0"): [1, 8],
        ("fixed.onnx", "cuda-graph:0"): [8],  # one batch size is what a CUDA graph replays
        ("m.pt2", "cuda-compile:0"): [1, 8],
    }
    assert {case.reference for case in cases} == {cases[0].candidate}
    assert [case.candidate.compiled for case in cases] == [False] * 8 + [True] * 2
    (alone,) = (
        c for c in plan_cases([models[0]], two[0], BenchSettings(devices=("cuda-graph:1",))) if c.role == "candidate"
    )
    assert alone.reference is not None
    assert (alone.candidate.device, alone.reference.device) == ("cuda-graph:1", "cuda:1")  # and its row says why not


def test_a_checkpoint_is_run_for_each_of_its_artifacts_sizes_and_for_any(two: list[Path]) -> None:
    folder = two[0].parent
    large = artifact(folder / "large.onnx", two[0], spec=preset("tiny", 512, 512))
    any_size = artifact(folder / "any.onnx", two[0], spec=preset("tiny").at_any_size())
    cases = plan_cases([describe(path) for path in (two[1], large, any_size)], None, BenchSettings())
    jobs = [job_of(case, BenchSettings(), True) for case in cases if case.role == "reference"]
    assert [(job.height, job.width, job.any_size) for job in jobs] == [
        (192, 256, False),
        (512, 512, False),
        (None, None, True),
    ]
    assert [case.reference for case in cases[3:]] == [case.candidate for case in cases[:3]]


def test_a_refused_artifact_is_a_row_beside_the_reference_of_the_others(two: list[Path]) -> None:
    any_size = artifact(two[0].parent / "any.onnx", two[0], spec=preset("tiny").at_any_size())
    write_refusal(two[0].parent / "any-int8.onnx", Refusal("int8", "It does not score like best.safetensors."))
    models = [describe(path) for path in (two[0].parent / "any-int8.onnx", any_size)]
    cases = plan_cases(models, two[0], BenchSettings())
    assert [(case.role, case.candidate.path.name) for case in cases] == [
        ("reference", "best.safetensors"),
        ("candidate", "any-int8.onnx"),
        ("candidate", "any.onnx"),
    ]


def test_a_baseline_without_a_checkpoint_is_an_error(two: list[Path]) -> None:
    two[0].unlink()
    cases = plan_cases([describe(two[1])], None, TWO, ["compile"])
    check_baselines([], cases)
    with pytest.raises(MusiqError, match="--baseline compile needs a checkpoint, and none is known"):
        check_baselines(["compile"], cases)
    with pytest.raises(MusiqError, match="exclude each other"):
        check_baselines(["none", "eager"], cases)
