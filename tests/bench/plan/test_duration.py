"""--plan: the arithmetic of a model, and how long a run takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from musiq.presets import preset
from musiq.scoring.arithmetic import gflop
from musiq_bench.plan.duration import left_s, middle_size
from tests.bench_cases import TWO, artifact, cases_of, outcome

pytest_plugins = ["tests.bench_fixtures"]


@pytest.mark.parametrize("name", ["tiny", "musiq", "resnet50", "resnet50-classic"])
def test_estimated_arithmetic_is_what_torch_counts(name: str) -> None:
    from musiq.model.network import Musiq
    from musiq_export.graph.simplify import gflop as counted

    spec = preset(name, 256, 320)
    # The pyramid's products are left out of the estimate; beside `tiny` they weigh most.
    assert gflop(spec) == pytest.approx(counted(Musiq(spec).eval()), rel=0.3 if name == "tiny" else 0.03)


def test_the_plan_of_a_model_for_any_size_is_of_the_images_that_are_there(two: list[Path], tmp_path: Path) -> None:
    artifact(two[1], two[0], spec=preset("tiny").at_any_size())
    case = cases_of(two)[2]
    small, large = (left_s(case, TWO, 200, 0.5, True, size) for size in ((100, 100), (2000, 2000)))
    assert small is not None
    assert large is not None
    assert large > 100 * small
    for name, (height, width) in {"a.png": (10, 10), "b.jpg": (20, 30), "c.png": (40, 20)}.items():
        cv2.imwrite(str(tmp_path / name), np.zeros((height, width, 3), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"")
    files = [tmp_path / name for name in ("a.png", "b.jpg", "c.png", "broken.png", "missing.png")]
    assert middle_size(files) == (20, 30), "500 pixels is the mean"
    assert middle_size([tmp_path / "missing.png"]) == (768, 1024)


def test_a_plan_grows_with_calls_and_batch_and_shrinks_with_what_is_done(two: list[Path]) -> None:
    case = cases_of(two)[2]
    more = dataclasses.replace(TWO, calls=1000)
    once, many = (left_s(case, settings, 200, 0.5, True) for settings in (TWO, more))
    assert once is not None
    assert many is not None
    assert many > 3 * once
    case.outcomes.append(outcome(latencies_ms=[700.0] * 34))
    left = left_s(case, TWO, 200, 0.5, False)
    # Two rounds of about 10 to warm up, 34 timed and 6 from files, at the 0.7 s that were measured, and opening.
    assert left == pytest.approx(2 * (50 * 0.7), rel=0.2)
    case.outcomes += [outcome(), outcome()]
    assert left_s(case, TWO, 200, 0.5, False) == 0
