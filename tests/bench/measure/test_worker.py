"""musiq-bench's measuring process, its rounds and its images: what is called how often, and what a dead child leaves."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from musiq.errors import MusiqError
from musiq_bench.measure import worker
from musiq_bench.measure.rounds import run_rounds
from musiq_bench.plan.cases import Job, Settings, lay_out
from musiq_bench.plan.images import ImageSet, Labels, choose
from musiq_bench.plan.models import find_models
from musiq_bench.report.assemble import rows
from tests.bench_place import SPEC, at_start

pytest_plugins = ["tests.bench_fixtures"]


@pytest.fixture
def photos(place: Path, tmp_path: Path) -> ImageSet:
    return choose([place / "photos"], None, 0, tmp_path)


def measured(place: Path, photos: ImageSet, settings: Settings, *names: str, progress: Any = None) -> list[Any]:
    cells = lay_out(find_models([place / "exports" / name for name in names]), None, settings)
    run_rounds(cells, photos, settings, progress or (lambda text: None))
    return rows(cells, photos, None, settings)


FEW = Settings(calls=4, seconds=0, rounds=2, warmup_calls=1, warmup_seconds=0)


def test_a_row_that_was_finished_before_ctrl_c_is_kept(place: Path, photos: ImageSet) -> None:
    def interrupt(text: str) -> None:
        if text.startswith("brightness.onnx, batch 1, round 1"):
            raise KeyboardInterrupt

    first, second = measured(place, photos, FEW, "brighter.onnx", "brightness.onnx", progress=interrupt)
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
    endless = Settings(calls=10**9, rounds=1, warmup_calls=0, warmup_seconds=0, timeout_s=4)
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
    settings = Settings(calls=30, seconds=0, rounds=1, batches=(64,))
    (row,) = measured(place, photos, settings, "brightness.onnx")
    # Loose, since other work may run beside either: wrong units or a clock around nothing are far beyond it.
    assert 0.05 < row.latency_ms.p50 / np.median(plain) < 20


class Slow:
    """A runtime that takes 20 ms and scores an image by its first sample."""

    def __init__(self, provider: str = "CPUExecutionProvider") -> None:
        self.spec, self.provider, self.batches = SPEC, provider, list[int]()

    def __call__(self, images: Any) -> Any:
        time.sleep(0.02)
        self.batches.append(len(images))
        return images[:, 0, 0, 0].astype(np.float32)

    def close(self) -> None:
        pass


@pytest.fixture
def told(photos: ImageSet, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images that a child, run in this process, is told to use."""
    raw = str(photos.decoded(SPEC.height, SPEC.width))
    lines = iter([json.dumps({"raw": raw, "files": [str(file) for file in photos.files]}), ""])

    class Stdin:
        def readline(self) -> str:
            return next(lines)

    monkeypatch.setattr(worker.sys, "stdin", Stdin())
    monkeypatch.setattr(worker, "_die_with_parent", lambda: None)
    return photos.files


def heard(job: Job, runtime: Slow, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    monkeypatch.setattr(worker, "open_model", lambda job: (runtime, 0.1))
    said: dict[str, dict[str, Any]] = {}
    worker.measure(job, lambda event, **content: said.update({event: content}))
    return said


def test_every_call_has_the_whole_batch_and_every_image_its_score(
    place: Path, told: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Slow()
    job = Job("x.onnx", "auto", 4, calls=3, seconds=0, warmup_calls=5, warmup_seconds=0, end_to_end_calls=2)
    found = heard(job, runtime, monkeypatch)["finished"]
    assert set(runtime.batches) == {4}
    # One cold, three that score eleven images, two more to warm up, three and two timed.
    assert len(runtime.batches) == 1 + 3 + 2 + 3 + 2
    expected = [cv2.imread(str(file))[0, 0, 2] for file in told]
    assert found["scores"] == [float(value) for value in expected]
    assert len(found["latencies_ms"]) == 3
    assert min(found["latencies_ms"]) >= 20
    assert found["cold_start_ms"] >= 20


def test_a_quiet_fall_back_to_the_cpu_is_not_measured(told: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Slow()
    job = Job("x.onnx", "cuda:0", 1, calls=3, seconds=0, warmup_calls=0, warmup_seconds=0, end_to_end_calls=2)
    said = heard(job, runtime, monkeypatch)
    assert said["failed"]["status"] == "fallback"
    assert said["failed"]["reason"] == "asked for cuda:0, but CPUExecutionProvider is what runs"
    assert not runtime.batches


def test_images_are_thinned_evenly_and_kept_for_each_size(place: Path, tmp_path: Path) -> None:
    labels = Labels.read(place / "labels.csv", "all")
    few = choose([place / "photos"], labels, 4, tmp_path)
    assert [file.name for file in few.files] == ["00.png", "03.png", "06.png", "09.png"]
    assert few.found == 12
    raw = np.fromfile(few.decoded(SPEC.height, SPEC.width), np.uint8).reshape(4, SPEC.height, SPEC.width, 3)
    assert (raw[1] == cv2.imread(str(few.files[1]))[:, :, ::-1]).all()
    assert few.decoded(SPEC.height, SPEC.width).stat().st_size == raw.size
    assert few.fitted == 0
    assert few.decoded(32, 32).stat().st_size == 4 * 32 * 32 * 3
    assert few.fitted == 4


def test_labels_for_other_images_are_an_error(place: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,mos\nsomewhere.png,3\n")
    with pytest.raises(MusiqError, match=r"None of the 12 images in .* has a label"):
        choose([place / "photos"], Labels.read(tmp_path / "labels.csv", None), 0, tmp_path)
