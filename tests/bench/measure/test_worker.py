"""The measuring process: what it calls how often, and what it makes of an exception."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from musiq.errors import MusiqError
from musiq_bench.measure import worker
from musiq_bench.measure.worker import diagnose
from musiq_bench.plan.images import ImageSet, choose
from musiq_bench.plan.job import DecodedFiles, Job
from tests.bench_place import SPEC

pytest_plugins = ["tests.bench_fixtures"]


@pytest.fixture
def photos(place: Path, tmp_path: Path) -> ImageSet:
    return choose([place / "photos"], None, 0, tmp_path)


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


def sent(job: Job, runtime: Slow, photos: ImageSet) -> dict[str, dict[str, Any]]:
    """The messages of a measuring process, run in this one: the last of each event."""
    messages: dict[str, dict[str, Any]] = {}
    raw, files = photos.decoded(SPEC.height, SPEC.width), [str(file) for file in photos.files]

    def keep(event: str, **content: Any) -> None:
        messages[event] = content

    worker.measure(job, keep, lambda: DecodedFiles(str(raw), files), lambda job: (runtime, 0.1))
    return messages


def test_every_call_has_the_whole_batch_and_every_image_its_score(photos: ImageSet) -> None:
    runtime = Slow()
    job = Job("x.onnx", "auto", 4, calls=3, seconds=0, warmup_calls=5, warmup_seconds=0, end_to_end_calls=2)
    found = sent(job, runtime, photos)["finished"]
    assert set(runtime.batches) == {4}
    assert len(runtime.batches) >= 1 + 5 + 3 + 2, "a cold one, those to warm up, those timed, those timed from files"
    assert found["scores"] == [float(cv2.imread(str(file))[0, 0, 2]) for file in photos.files]
    assert found["seen"] == {str(place): found["scores"][place] for place in range(len(photos.files))}
    assert (len(found["latencies_ms"]), len(found["end_to_end_ms"])) == (3, 2)
    assert min(found["latencies_ms"] + found["end_to_end_ms"]) >= 20
    assert found["cold_start_ms"] >= 20


def test_a_quiet_fall_back_to_the_cpu_is_not_measured(photos: ImageSet) -> None:
    runtime = Slow()
    job = Job("x.onnx", "cuda:0", 1, calls=3, seconds=0, warmup_calls=0, warmup_seconds=0, end_to_end_calls=2)
    messages = sent(job, runtime, photos)
    assert messages["failed"]["status"] == "fallback"
    assert messages["failed"]["reason"] == "asked for cuda:0, but CPUExecutionProvider is what runs"
    assert not runtime.batches


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
