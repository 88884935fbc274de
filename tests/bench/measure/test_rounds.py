"""The rounds of a run, in real processes: what is kept, and what a process leaves that dies."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musiq.terminal import ProgressBar
from musiq_bench.measure.rounds import run_rounds
from musiq_bench.plan.cases import BenchSettings, plan_cases
from musiq_bench.plan.images import ImageSet, choose
from musiq_bench.plan.models import find_models
from musiq_bench.report.assemble import assemble_rows
from tests.bench_place import SPEC, at_start

pytest_plugins = ["tests.bench_fixtures"]


@pytest.fixture
def photos(place: Path, tmp_path: Path) -> ImageSet:
    return choose([place / "photos"], None, 0, tmp_path)


def measured(
    place: Path, photos: ImageSet, settings: BenchSettings, *names: str, bar: ProgressBar | None = None
) -> list[Any]:
    cases = plan_cases(find_models([place / "exports" / name for name in names]), None, settings)
    run_rounds(cases, photos, settings, bar or ProgressBar())
    return assemble_rows(cases, photos, None, settings)


FEW = BenchSettings(calls=4, seconds=0, rounds=2, warmup_calls=1, warmup_seconds=0)


def test_a_row_that_was_finished_before_ctrl_c_is_kept(place: Path, photos: ImageSet) -> None:
    class Interrupting(ProgressBar):
        def tell(self, title: str | None = None, note: str | None = None) -> None:
            if note and note.startswith("brightness.onnx, batch 1, round 1"):
                raise KeyboardInterrupt

    first, second = measured(place, photos, FEW, "brighter.onnx", "brightness.onnx", bar=Interrupting())
    assert (first.status, first.latency_ms.n, first.notes) == ("ok", 2, ["1 of 2 rounds"])
    assert (second.status, second.latency_ms) == ("not measured (interrupted)", None)


@pytest.mark.parametrize(
    ("number", "status", "reason"),
    [(signal.SIGSEGV, "crashed", "died with SIGSEGV"), (signal.SIGKILL, "out of memory", "SIGKILL")],
)
def test_a_process_that_dies_is_a_row_with_how(
    place: Path,
    photos: ImageSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    status: str,
    reason: str,
) -> None:
    dying = f"import os, sys\nprint('last words', file=sys.stderr, flush=True)\nos.kill(os.getpid(), {int(number)})\n"
    monkeypatch.setenv("PYTHONPATH", at_start(tmp_path, dying))
    (row,) = measured(place, photos, FEW, "brightness.onnx")
    assert row.status == status
    assert reason in row.reason
    assert "last words" in row.reason


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="only Linux chooses by a score")
def test_a_process_that_measures_is_the_first_to_go_where_memory_ends(
    place: Path, photos: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    telling = f"import atexit, shutil\natexit.register(shutil.copyfile, '/proc/self/oom_score_adj', {str(told)!r})\n"
    monkeypatch.setenv("PYTHONPATH", at_start(tmp_path, telling))
    (row,) = measured(place, photos, FEW, "brightness.onnx")
    assert row.status == "ok"
    assert told.read_text().strip() == "1000"


def test_a_process_that_hangs_is_stopped(place: Path, photos: ImageSet) -> None:
    endless = BenchSettings(calls=10**9, rounds=1, warmup_calls=0, warmup_seconds=0, timeout_s=4)
    started = time.monotonic()
    (row,) = measured(place, photos, endless, "brightness.onnx")
    assert row.status == "timed out"
    assert "--timeout" in row.reason
    assert time.monotonic() - started < 60


def test_the_first_p50_is_of_the_size_that_a_plain_loop_finds(place: Path, photos: ImageSet) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(place / "exports" / "brightness.onnx"), providers=["CPUExecutionProvider"]
    )
    batch = np.random.default_rng(0).integers(0, 256, (64, SPEC.height, SPEC.width, 3), np.uint8)
    plain = []
    for _ in range(30):
        start = time.perf_counter()
        session.run(None, {"image": batch})
        plain.append(1e3 * (time.perf_counter() - start))
    settings = BenchSettings(calls=30, seconds=0, rounds=1, batches=(64,))
    (row,) = measured(place, photos, settings, "brightness.onnx")
    # Loose, since other work may run beside either: wrong units or a clock around nothing are far beyond it.
    assert 0.05 < row.latency_ms.p50 / np.median(plain) < 20
