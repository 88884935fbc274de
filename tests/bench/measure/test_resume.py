"""The journal of a run: rounds that were finished are taken over, also from journals of the version before."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from musiq.errors import MusiqError
from musiq.presets import preset
from musiq_bench.measure.resume import Journal, resume
from musiq_bench.plan.job import Outcome
from tests.bench_cases import TWO, artifact, cases_of, outcome

pytest_plugins = ["tests.bench_fixtures"]

CONDITIONS = {"calls": 100, "images": "0123456789abcdef", "cpu": "a CPU"}


def test_finished_rounds_are_taken_over_and_failed_ones_are_not(two: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "out" / "measured.jsonl"
    measured = cases_of(two)
    journal = Journal(path, CONDITIONS)
    scored = outcome(scores=[1.0, 2.0], seen={"0": 1.0})
    journal.add(measured[0], 0, scored)
    journal.add(measured[2], 0, Outcome("crashed", "died with SIGSEGV"))
    again = cases_of(two)
    assert resume(path, again, TWO, CONDITIONS) == 1
    assert again[0].outcomes == [scored]
    assert not any(case.outcomes for case in again[1:])


def test_rounds_at_any_size_are_taken_over_with_their_sizes_and_not_for_a_fixed_size(
    two: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "measured.jsonl"
    artifact(two[1], two[0], spec=preset("tiny").at_any_size())
    journal, cases = Journal(path, CONDITIONS), cases_of(two)
    mixed = outcome(scores=[1.0], sizes=[[20, 30]] * 5)
    for case in (cases[0], cases[2]):
        journal.add(case, 0, mixed)
    again = cases_of(two)
    assert resume(path, again, TWO, CONDITIONS) == 2
    assert again[0].outcomes == again[2].outcomes == [mixed]
    artifact(two[1], two[0])
    fixed = cases_of(two)
    assert resume(path, fixed, TWO, CONDITIONS) == 1, "the file's, which are the same bytes"
    assert not fixed[0].outcomes


def test_a_journal_of_an_earlier_release_goes_on(two: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "measured.jsonl"
    journal, case = Journal(path, CONDITIONS), cases_of(two)[0]
    journal.add(case, 0, outcome(scores=[1.0]))
    head, line = map(json.loads, path.read_text().splitlines())
    for later in ("sizes", "resize"):
        del line["outcome"]["figures"][later]
    path.write_text(f"{json.dumps(head)}\n{json.dumps(line)}\n")
    again = cases_of(two)
    assert resume(path, again, TWO, CONDITIONS) == 1
    assert again[0].outcomes == [outcome(scores=[1.0])]


def test_rounds_measured_otherwise_are_refused(two: list[Path], tmp_path: Path) -> None:
    Journal(tmp_path / "measured.jsonl", CONDITIONS)
    with pytest.raises(MusiqError, match=r"measured with other calls \(100 then, 50 now\)"):
        resume(tmp_path / "measured.jsonl", cases_of(two), TWO, {**CONDITIONS, "calls": 50})


def test_a_journal_of_the_version_before_goes_on(two: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "measured.jsonl"
    journal, case = Journal(path, CONDITIONS), cases_of(two)[0]
    journal.add(case, 0, outcome(scores=[1.0, 2.0]))
    head, line = map(json.loads, path.read_text().splitlines())
    before = {"calls": 100, "pictures": CONDITIONS["images"], "cpu": "a CPU"}
    line["outcome"]["figures"]["event"] = "finished"
    written = [{**head, "schema": "musiq-bench-measured/1", "conditions": before}, line]
    path.write_text("".join(json.dumps(each) + "\n" for each in written))
    again = cases_of(two)
    assert resume(path, again, TWO, CONDITIONS) == 1
    assert asdict(again[0].outcomes[0]) == asdict(outcome(scores=[1.0, 2.0]))
