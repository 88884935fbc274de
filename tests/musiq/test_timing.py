"""The clock: it counts what a call takes, warms up before, and lets the calls take turns."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import pytest

from musiq import timing
from musiq.timing import in_turns, timed


def test_a_call_is_timed_with_what_it_returns() -> None:
    result, seconds = timed(lambda: time.sleep(0.05) or "done")
    assert result == "done"
    assert 0.05 <= seconds < 10


def calls_of(names: str, log: list[str]) -> list[Callable[[], object]]:
    return [lambda name=name: log.append(name) for name in names]  # type: ignore[misc]


def test_each_call_is_warmed_up_and_then_has_its_turns() -> None:
    log: list[str] = []
    taken = in_turns(calls_of("abc", log), turns=20, warmup=3)
    assert log[:9] == list("aaabbbccc")
    turns = [log[start : start + 3] for start in range(9, len(log), 3)]
    assert len(turns) == 20
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 2, "none always follows the same other"
    assert [len(seconds) for seconds in taken] == [20, 20, 20]


def test_the_order_is_the_same_in_each_run() -> None:
    logs: list[list[str]] = [[], []]
    for log in logs:
        in_turns(calls_of("abcd", log), turns=10)
    assert logs[0] == logs[1]


def test_seconds_are_of_the_call_that_took_them() -> None:
    slow, fast = in_turns([lambda: time.sleep(0.03), lambda: None], turns=4, warmup=0)
    assert min(slow) >= 0.03
    assert sorted(fast)[0] < 0.02


@pytest.mark.parametrize(("turns", "expected"), [(100, 3), (2, 2)])
def test_after_the_limit_no_turn_begins_but_three_there_always_are(turns: int, expected: int) -> None:
    counted = Counter[str]()
    (taken,) = in_turns(
        [lambda: time.sleep(0.02)], turns, warmup=0, limit_s=0.01, after_turn=lambda: counted.update(["turn"])
    )
    assert len(taken) == counted["turn"] == expected


def test_the_limit_counts_from_the_first_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "monotonic", lambda: next(clock))
    (taken,) = in_turns([lambda: None], turns=50, limit_s=10)
    assert len(taken) == 13  # three without a look at the clock, then one for each second up to the limit
