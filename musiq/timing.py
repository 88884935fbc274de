"""The one clock: how long a call takes, and several calls in turns.

A runtime that has returned has finished, so a call is timed from the outside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

R = TypeVar("R")


def timed(call: Callable[[], R]) -> tuple[R, float]:
    """What `call` returns, and the seconds that it took."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def in_turns(
    calls: Sequence[Callable[[], object]],
    turns: int,
    *,
    warmup: int = 2,
    limit_s: float | None = None,
    after_turn: Callable[[], object] = lambda: None,
) -> list[list[float]]:
    """Time several calls in turns in one process, so that whatever else the machine does slows all of them.

    Within a turn they come in a random order (the same in each run), so that none always follows the same other.

    Args:
        calls: What is timed.
        turns: How often each is called.
        warmup: Calls of each before the first turn, which do not count.
        limit_s: No new turn begins after so many seconds; three there are always. None: no limit.
        after_turn: Called after each turn, for a progress bar.

    Returns:
        For each call its seconds, one for each turn.
    """
    for call in calls:
        for _ in range(warmup):
            call()
    taken: list[list[float]] = [[] for _ in calls]
    draw, start = np.random.default_rng(0), time.monotonic()
    for turn in range(turns):
        if limit_s is not None and turn >= min(3, turns) and time.monotonic() - start > limit_s:
            break
        for place in draw.permutation(len(calls)):
            taken[place].append(timed(calls[place])[1])
        after_turn()
    return taken
