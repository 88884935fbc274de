"""What musiq-bench settles before and around measuring: rows, baselines, limits, plans, GPUs, and the report's schema."""

# ruff: noqa: N802, the names of FakeNvml are NVML's

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest

from musiq.artifact import Record, record_path, write_record
from musiq.errors import MusiqError
from musiq.files import sha256
from musiq.spec import preset
from musiq_bench.compare.thresholds import Limits, Slower, offending
from musiq_bench.machine import nvml
from musiq_bench.plan.cases import Cell, Outcome, Settings, check_baselines, job_of, lay_out
from musiq_bench.plan.duration import gflop, left_s
from musiq_bench.plan.images import choose, find_labels
from musiq_bench.plan.models import FORMATS, describe
from musiq_bench.report import schema
from musiq_bench.report.assemble import rows
from musiq_bench.report.latency import Latency, summarise
from musiq_bench.report.schema import Row
from tests.bench_place import QUICK, bench, report_of

pytest_plugins = ["tests.bench_fixtures"]

SCHEMA = json.loads(Path(schema.__file__).with_name("report.schema.json").read_text())
TWO = Settings(batches=(1, 8))


def artifact(path: Path, checkpoint: Path, batch: tuple[int, int] = (1, 0), **details: Any) -> Path:
    path.write_bytes(b"graph " + path.name.encode())
    named = {"name": checkpoint.name, "sha256": sha256(checkpoint)}
    write_record(path, Record(preset("tiny"), "onnx", "fp16", sha256(path), named, batch=batch, details=details))
    return path


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """A checkpoint and an artifact that says it was made of it; neither is ever opened."""
    weights = tmp_path / "best.safetensors"
    weights.write_bytes(b"weights")
    return [weights, artifact(tmp_path / "model.onnx", weights)]


def cells_of(two: list[Path], *baselines: str, settings: Settings = TWO) -> list[Cell]:
    return lay_out([describe(two[1])], two[0], settings, baselines)


def test_baselines_are_rows_before_the_artifacts(two: list[Path]) -> None:
    def laid(*baselines: str) -> list[tuple[str, str, int, bool]]:
        return [(c.role, c.candidate.format, c.batch, c.timed) for c in cells_of(two, *baselines)]

    eager = [("reference", "pytorch", 1, True), ("reference", "pytorch", 8, True)]
    compiled = [("baseline", "torch.compile", 1, True), ("baseline", "torch.compile", 8, True)]
    exported = [("candidate", "onnx", 1, True), ("candidate", "onnx", 8, True)]
    assert laid() == laid("eager") == eager + exported
    assert laid("compile") == eager + compiled + exported
    assert laid("none") == [("reference", "pytorch", 1, False), *exported]


def test_baselines_in_half_precision_are_rows_of_their_own(two: list[Path]) -> None:
    cells = cells_of(two, "eager:fp16", "compile:bf16")
    told = [
        (cell.role, cell.candidate.format, cell.candidate.precision, cell.candidate.inside) for cell in cells[::2][:3]
    ]
    assert told == [
        ("reference", "pytorch", "fp32", "float32 100%"),
        ("baseline", "pytorch", "fp16", None),
        ("baseline", "torch.compile", "bf16", None),
    ]
    assert [job_of(cell, TWO, True).precision for cell in cells[::2]] == ["fp32", "fp16", "bf16", "fp32"]


def test_of_several_devices_each_file_goes_where_its_kind_runs(two: list[Path]) -> None:
    fixed = artifact(two[0].parent / "fixed.onnx", two[0], batch=(8, 8))
    compiled = artifact(two[0].parent / "m.pt2", two[0])
    devices = ("cuda:0", "cuda-graph:0", "cuda-compile:0")
    models = [describe(path) for path in (two[1], fixed, compiled)]
    cells = lay_out(models, two[0], Settings(batches=(1, 8), devices=devices))
    laid: dict[tuple[str, str], list[int]] = {}
    for cell in cells:
        laid.setdefault((cell.candidate.path.name, cell.candidate.device), []).append(cell.batch)
    assert laid == {
        ("best.safetensors", "cuda:0"): [1, 8],
        ("model.onnx", "cuda:0"): [1, 8],
        ("fixed.onnx", "cuda:0"): [8],
        ("m.pt2", "cuda:0"): [1, 8],
        ("fixed.onnx", "cuda-graph:0"): [8],  # one batch size is what a CUDA graph replays
        ("m.pt2", "cuda-compile:0"): [1, 8],
    }
    assert {cell.reference for cell in cells} == {cells[0].candidate}
    assert [cell.candidate.compiled for cell in cells] == [False] * 8 + [True] * 2
    (alone,) = (c for c in lay_out([models[0]], two[0], Settings(devices=("cuda-graph:1",))) if c.role == "candidate")
    assert alone.reference is not None
    assert (alone.candidate.device, alone.reference.device) == ("cuda-graph:1", "cuda:1")  # and its row says why not


def test_a_baseline_without_a_checkpoint_is_an_error(two: list[Path]) -> None:
    two[0].unlink()
    cells = lay_out([describe(two[1])], None, TWO, ["compile"])
    check_baselines([], cells)
    with pytest.raises(MusiqError, match="--baseline compile needs a checkpoint, and none is known"):
        check_baselines(["compile"], cells)
    with pytest.raises(MusiqError, match="exclude each other"):
        check_baselines(["none", "eager"], cells)


def test_formats_are_called_as_the_exporter_calls_them() -> None:
    from musiq_export.formats import FORMATS as EXPORTED

    files = {ending: name for ending, name in FORMATS.items() if name != "pytorch"}
    assert len(files) == 6
    assert {ending: EXPORTED[name].suffix for ending, name in files.items()} == {ending: ending for ending in files}


def test_the_precision_inside_and_the_size_are_of_all_that_belongs_to_the_artifact(two: list[Path]) -> None:
    folder = two[0].parent
    counted = describe(artifact(folder / "a.onnx", two[0], weights={"float32": 30, "float16": 970}))
    assert counted.inside == "float16 97%, float32 3%"
    quantised = describe(artifact(folder / "b.onnx", two[0], weights="int8 per channel", int8_products=83))
    assert quantised.inside == "83 products in int8"
    assert describe(two[1]).inside is None
    assert describe(two[0]).inside == "float32 100%"
    (folder / "c.xml").write_bytes(b"x" * 1000)
    (folder / "c.bin").write_bytes(b"x" * 2_000_000)
    assert describe(folder / "c.xml").file_mb == pytest.approx(2.001)


@pytest.mark.parametrize(
    "text", ["baseline", "baseline:", "baseline:fast", ":1.2", "baseline:0", "baseline:nan", "a:-1"]
)
def test_a_mistyped_limit_of_slowness_is_one_clear_line(text: str) -> None:
    with pytest.raises(MusiqError, match=r"is not NAME:RATIO .* for example baseline:1\.2"):
        Slower.parse(text)


def test_a_name_that_means_no_row_is_known_before_anything_is_measured(two: list[Path]) -> None:
    cells = cells_of(two, "compile")
    for name in ("baseline", "model", "model.onnx", "best.safetensors"):
        Slower(name, 1.2).check(cells)
    with pytest.raises(MusiqError, match=r"'modle' is no model of this run; name one by its file: baseline, best"):
        Slower("modle", 1.2).check(cells)
    with pytest.raises(MusiqError, match="needs PyTorch timed in this run"):
        Slower("baseline", 1.2).check(cells_of(two, "none"))
    other = artifact(two[0].parent / "model.pt2", two[0])
    with pytest.raises(MusiqError, match="'model' means several models"):
        Slower("model", 1.2).check([*cells, *lay_out([describe(other)], two[0], TWO)])


def timed(model: str, p50: float | None, batch: int = 1, role: str = "candidate") -> Row:
    latency = summarise([[p50] * 5]) if p50 else None
    path = "best.safetensors" if role == "reference" else f"{model}.onnx"
    provider = "PyTorch cpu" if role == "reference" else "ORT"
    facts: dict[str, Any] = {"height": 64, "width": 96, "reference": "best.safetensors", "latency_ms": latency}
    return Row(model, path, "ab" * 32, "onnx", role, "fp32", "auto", batch, provider=provider, **facts)


def test_rows_slower_than_the_baseline_of_their_batch_size_offend() -> None:
    base = [timed("best", 10.0, 1, "reference"), timed("best", 100.0, 8, "reference")]
    found = [*base, timed("quick", 11.9), timed("quick", 130.0, 8), timed("slow", None)]
    first, second = offending(found, Limits(slower=Slower("baseline", 1.2)))
    assert first == "quick fp32 on ORT, batch 8: p50 130 ms is 1.30 times the 100 ms of baseline, above 1.2"
    assert "there is no p50 of slow fp32 on ORT, batch 1" in second
    assert offending(found[2:3], Limits(slower=Slower("baseline", 1.2))) == [
        "quick fp32 on ORT, batch 1: at most 1.2 times baseline is wanted, and there is no p50 of baseline at batch 1"
    ]


def outcome(**figures: Any) -> Outcome:
    basics = {"provider": "p", "height": 64, "width": 96, "target": "t", "tf32": None, "threads": 2, "load_s": 1.0}
    memory = {"peak_memory_mib": 100.0, "device_memory_mib": None, "gpu_clock_mhz": None}
    times = {"cold_start_ms": 9.0, "latencies_ms": [1.0] * 5, "end_to_end_ms": [2.0] * 5, "scores": [], "seen": {}}
    return Outcome("ok", figures={**basics, **memory, **times, **figures})


def test_quality_is_worked_out_once_and_stands_in_every_row_of_a_model(two: list[Path], tmp_path: Path) -> None:
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((64, 96, 3), 20 * index, np.uint8))
    images = choose([tmp_path], None, 0, tmp_path)
    cells = cells_of(two, "compile", settings=dataclasses.replace(TWO, rounds=1))
    reference, compiled, exported = cells[0], cells[2], cells[4]
    reference.outcomes.append(outcome(scores=[1.0, 2.0, 3.0, 4.0]))
    compiled.outcomes.append(outcome(scores=[1.0, 2.0, 3.0, 4.25], cold_start_ms=5e4))
    exported.outcomes.append(outcome(scores=[1.0, 2.5, 3.0, 4.0], seen={"1": 2.5, "3": 4.0}))
    cells[5].outcomes.append(outcome(seen={"1": 3.5}))
    found = rows(cells, images, [1.0, 2.0, 3.0, 4.0], dataclasses.replace(TWO, rounds=1))
    assert [row.status for row in found] == ["ok", "not measured (interrupted)"] * 2 + ["ok", "ok"]
    assert (found[2].max_difference, found[2].cold_start_ms) == (0.25, 5e4)
    assert found[4].max_difference == found[5].max_difference == 0.5
    assert found[4].srcc == found[5].srcc == 1.0
    assert (found[4].batch_difference, found[4].notes) == (0.0, [])
    assert found[5].batch_difference == 1.0
    assert found[5].notes == ["scores while timed differ by up to 1 from those at batch 1"]


@pytest.mark.parametrize("name", ["tiny", "musiq", "resnet50", "resnet50-classic"])
def test_estimated_arithmetic_is_what_torch_counts(name: str) -> None:
    from musiq.model.network import Musiq
    from musiq_export.graph.simplify import gflop as counted

    spec = preset(name, 256, 320)
    # The pyramid's products are left out of the estimate; beside `tiny` they weigh most.
    assert gflop(spec) == pytest.approx(counted(Musiq(spec).eval()), rel=0.3 if name == "tiny" else 0.03)


def test_a_plan_grows_with_calls_and_batch_and_shrinks_with_what_is_done(two: list[Path]) -> None:
    cell = cells_of(two)[2]
    more = dataclasses.replace(TWO, calls=1000)
    once, many = (left_s(cell, settings, 200, 0.5, True) for settings in (TWO, more))
    assert once is not None
    assert many is not None
    assert many > 3 * once
    cell.outcomes.append(outcome(latencies_ms=[700.0] * 34))
    left = left_s(cell, TWO, 200, 0.5, False)
    # Two rounds of about 10 to warm up, 34 timed and 6 from files, at the 0.7 s that were measured, and opening.
    assert left == pytest.approx(2 * (50 * 0.7), rel=0.2)
    cell.outcomes += [outcome(), outcome()]
    assert left_s(cell, TWO, 200, 0.5, False) == 0


class FakeNvml:
    """NVML of a machine with two GPUs, the second of which takes memory and clocks up."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.looks: Counter[int] = Counter()

    def nvmlInit(self) -> None: ...
    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.1"

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, gpu: int) -> str:
        return f"GPU {nvml}"

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> SimpleNamespace:
        self.looks[nvml] += 1
        used = 1000 + (500 * min(self.looks[nvml], 3) if nvml == 1 else 0)
        return SimpleNamespace(used=used * 2**20, total=24000 * 2**20)

    def nvmlDeviceGetClockInfo(self, gpu: int, kind: int) -> int:
        return 300 if nvml == 0 else 1900

    def nvmlDeviceGetMaxClockInfo(self, gpu: int, kind: int) -> int:
        return 2100

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: int) -> int:
        raise self.NVMLError


def test_gpus_are_watched_while_they_work_and_described(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
    with nvml.Watch() as watch:
        watch.timing = True
        deadline = time.monotonic() + 100
        while fake.looks[1] < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert watch.peak_mib == 1000
    assert watch.clock_mhz == 1900
    first, second = nvml.describe()
    assert (first["name"], first["driver"], second["memory_mib"], second["clock_mhz"]) == (
        "GPU 0",
        "580.1",
        24000,
        1900,
    )
    assert first["power_limit_w"] is None


def test_without_nvml_there_is_no_gpu_and_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with nvml.Watch() as watch:
        pass
    assert nvml.describe() == []
    assert watch.peak_mib is watch.clock_mhz is None


def test_a_public_datasets_folder_gives_images_and_labels(tmp_path: Path) -> None:
    (tmp_path / "1024x768").mkdir()
    (tmp_path / "512x384").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        for folder in ("1024x768", "512x384"):  # as its authors publish it: every image is there twice
            cv2.imwrite(str(tmp_path / folder / name), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "koniq-10k.txt").write_text("s1\ta.jpg\t3.5\ns2\tb.jpg\t2.5\ns3\tc.jpg\t1.5\n")
    for source in (None, str(tmp_path), f"koniq10k={tmp_path}"):
        labels = find_labels([tmp_path], source, None)
        assert labels is not None
        found = choose([tmp_path], labels, 0, tmp_path)
        assert [str(file.relative_to(tmp_path)) for file in found.files] == [f"1024x768/{n}.jpg" for n in "abc"]
        assert labels.of(found.files) == [3.5, 2.5, 1.5]
        assert labels.dataset.target == "KonIQ-10k mean rating (1-5)"
    assert find_labels([tmp_path / "512x384"], None, None) is None
    with pytest.raises(MusiqError, match="is no dataset that is known here"):
        find_labels([tmp_path], str(tmp_path / "512x384"), None)


def test_every_field_of_a_row_stands_in_the_schema_and_the_other_way_round() -> None:
    described = SCHEMA["$defs"]["row"]["properties"]
    assert set(described) == {field.name for field in dataclasses.fields(Row)}
    assert set(SCHEMA["$defs"]["latency"]["properties"]) == {field.name for field in dataclasses.fields(Latency)}
    assert set(SCHEMA["properties"]) == {field.name for field in dataclasses.fields(schema.Report)}
    assert SCHEMA["properties"]["schema"]["const"] == schema.SCHEMA


def test_a_real_report_with_a_compiler_that_is_missing_is_as_the_schema_says(torch_place: Path, tmp_path: Path) -> None:
    asked = ("--images", "photos", "--labels", "labels.csv", "--batch", 1, "--batch", 2, "--out", tmp_path / "out")
    done = bench(*asked, *QUICK, "--baseline", "compile", cwd=torch_place, CXX=str(tmp_path / "no-compiler"))
    assert done.returncode == 0, done.stderr
    found = report_of(tmp_path / "out")
    jsonschema.validate(found, SCHEMA)
    status = {(row["role"], row["batch"]): (row["status"], row["reason"]) for row in found["rows"]}
    assert status["reference", 1] == status["candidate", 2] == ("ok", "")
    for batch in (1, 2):
        assert status["baseline", batch][0] == "failed"
        assert "compiler" in status["baseline", batch][1].lower()
    first, second = (row for row in found["rows"] if row["role"] == "candidate")
    assert first["srcc_reference"] == second["srcc_reference"] > 0.99
    assert second["batch_difference"] < 1e-4
    damaged = {**found, "rows": [{**found["rows"][0], "status": "fine"}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(damaged, SCHEMA)


def test_the_plain_timing_script_runs_on_its_own(place: Path) -> None:
    script = Path(__file__).parents[2] / "plain_timing.py"
    command = [
        sys.executable,
        str(script),
        str(place / "exports" / "brightness.onnx"),
        str(place / "photos" / "00.png"),
        "20",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=place, env=os.environ)
    assert done.returncode == 0, done.stderr
    said = done.stdout.split()
    assert (said[0], said[2:]) == ("p50", ["ms", "of", "20", "calls"])
    assert float(said[1]) > 0
    assert "musiq" not in script.read_text().partition('"""\n\nimport')[2]


def test_a_record_that_lies_is_a_row_and_not_the_end(two: list[Path]) -> None:
    record_path(two[1]).write_text("{}")
    assert describe(two[1]).record is None
