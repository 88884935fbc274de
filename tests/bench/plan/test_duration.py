"""--plan: the arithmetic of a model, and how long a run takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from musiq.scoring.arithmetic import gflop
from musiq.spec import preset
from musiq_bench.plan.duration import left_s
from tests.bench_cases import TWO, cases_of, outcome

pytest_plugins = ["tests.bench_fixtures"]


@pytest.mark.parametrize("name", ["tiny", "musiq", "resnet50", "resnet50-classic"])
def test_estimated_arithmetic_is_what_torch_counts(name: str) -> None:
    from musiq.model.network import Musiq
    from musiq_export.graph.simplify import gflop as counted

    spec = preset(name, 256, 320)
    # The pyramid's products are left out of the estimate; beside `tiny` they weigh most.
    assert gflop(spec) == pytest.approx(counted(Musiq(spec).eval()), rel=0.3 if name == "tiny" else 0.03)


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
