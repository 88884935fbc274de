"""From outcomes to the rows of a report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np

from musiq_bench.plan.images import choose
from musiq_bench.report.assemble import assemble_rows
from tests.bench_cases import TWO, cases_of, outcome

pytest_plugins = ["tests.bench_fixtures"]


def test_quality_is_worked_out_once_and_stands_in_every_row_of_a_model(two: list[Path], tmp_path: Path) -> None:
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((64, 96, 3), 20 * index, np.uint8))
    images = choose([tmp_path], None, 0, tmp_path)
    cases = cases_of(two, "compile", settings=dataclasses.replace(TWO, rounds=1))
    reference, compiled, exported = cases[0], cases[2], cases[4]
    reference.outcomes.append(outcome(scores=[1.0, 2.0, 3.0, 4.0]))
    compiled.outcomes.append(outcome(scores=[1.0, 2.0, 3.0, 4.25], cold_start_ms=5e4))
    exported.outcomes.append(outcome(scores=[1.0, 2.5, 3.0, 4.0], seen={"1": 2.5, "3": 4.0}))
    cases[5].outcomes.append(outcome(seen={"1": 3.5}))
    found = assemble_rows(cases, images, [1.0, 2.0, 3.0, 4.0], dataclasses.replace(TWO, rounds=1))
    assert [row.status for row in found] == ["ok", "not measured (interrupted)"] * 2 + ["ok", "ok"]
    assert (found[2].max_difference, found[2].cold_start_ms) == (0.25, 5e4)
    assert found[4].max_difference == found[5].max_difference == 0.5
    assert found[4].srcc == found[5].srcc == 1.0
    assert (found[4].batch_difference, found[4].notes) == (0.0, [])
    assert found[5].batch_difference == 1.0
    assert found[5].notes == ["scores while timed differ by up to 1 from those at batch 1"]
