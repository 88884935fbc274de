"""Calls from several threads at once, and none after a runtime was closed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from musiq.errors import MusiqError
from musiq.runtimes.registry import open_runtime
from tests.recipe import photo


def test_several_threads_may_share_a_runtime(any_file: Path) -> None:
    runtime = open_runtime(any_file, "cpu")
    images = [photo(192, 256, seed)[None] for seed in range(8)]
    alone = [float(runtime(image)[0]) for image in images]
    together: dict[int, float] = {}
    threads = [
        threading.Thread(target=lambda i=i: together.__setitem__(i, float(runtime(images[i])[0]))) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose([together[i] for i in range(8)], alone, atol=1e-6)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_opened_for_throughput_it_scores_the_same_from_as_many_threads_as_it_takes(
    artifacts: Callable[..., Path], format: str
) -> None:
    images = np.stack([photo(192, 256, seed) for seed in range(6)])
    runtime = open_runtime(artifacts(format), "cpu", threads=2, mode="throughput")
    assert runtime.in_flight == 2 or format == "openvino", "OpenVINO decides for itself, by the CPUs that it may use"
    with ThreadPoolExecutor(runtime.in_flight) as pool:
        scores = np.concatenate(list(pool.map(runtime, np.split(images, 3))))
    np.testing.assert_allclose(scores, open_runtime(artifacts(format), "cpu")(images), atol=2e-5)


def test_a_closed_runtime_says_so_and_may_be_closed_again(any_file: Path) -> None:
    runtime = open_runtime(any_file, "cpu")
    assert runtime.in_flight == 1  # one call keeps a CPU busy
    assert runtime.default_batch == 8  # of images as small as these
    runtime.close()
    runtime.close()
    with pytest.raises(MusiqError, match=r"was closed\. Open it again with musiq\.load"):
        runtime(photo(192, 256, 0)[None])
