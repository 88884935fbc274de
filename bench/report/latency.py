"""Latency statistics: from single calls to the few figures that they support."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..plan.images import size_class

SUPPORT = {50: 5, 90: 100, 95: 200, 99: 1000}
"""Calls from which a percentile is given: ten or more of them lie beyond it (five in all suffice for the median)."""

NOISY = 0.025
"""Coefficient of variation above which a row says so."""

KEPT = 200
"""Single latencies of a row that a report keeps: enough to draw a distribution."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call; a percentile is None where `n` does not support it (see SUPPORT).

    Attributes:
        n: Calls that were timed, all rounds together.
        mean: Arithmetic mean.
        min: The fastest call.
        max: The slowest call.
        cv: Standard deviation over mean; None for one call, and for images of many sizes, whose calls differ by nature.
        p50: Median, from 5 calls on.
        p90: From 100 calls on.
        p95: From 200 calls on.
        p99: From 1,000 calls on.
        rounds_p50: The median of each round: drift shows there.
        samples: Single calls in the order in which they were made, evenly thinned out to KEPT at most, for plots.
    """

    n: int
    mean: float
    min: float
    max: float
    cv: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    rounds_p50: list[float]
    samples: list[float]


def median_and_range(values: Sequence[float] | NDArray[np.float64]) -> str:
    """The median with the 10th and 90th percentiles, as tables write it: "1.27 (1.09-1.68)"."""
    low, middle, high = np.percentile(values, [10, 50, 90])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


@dataclass(frozen=True)
class ClassLatency:
    """Milliseconds of the calls with images of one size class; percentiles as of `Latency`.

    Attributes:
        size: The class, such as "0.25-0.5 MP".
        n: Calls that were timed, all rounds together.
        mean: Arithmetic mean.
        p50: Median, from 5 calls on.
        p90: From 100 calls on.
        p99: From 1,000 calls on.
        max: The slowest call.
    """

    size: str
    n: int
    mean: float
    p50: float | None
    p90: float | None
    p99: float | None
    max: float


def by_size(latencies_ms: Sequence[float], sizes: Sequence[tuple[int, int]]) -> list[ClassLatency]:
    """Summarise latencies by the class of their images' sizes, small ones first.

    Args:
        latencies_ms: Of each call.
        sizes: The (height, width) of its images.
    """
    classes: dict[str, list[float]] = {}
    for (height, width), ms in sorted(zip(sizes, latencies_ms, strict=True), key=lambda call: math.prod(call[0])):
        classes.setdefault(size_class(height, width), []).append(ms)
    found = {name: summarise([each]) for name, each in classes.items()}
    return [ClassLatency(name, s.n, s.mean, s.p50, s.p90, s.p99, s.max) for name, s in found.items() if s]


def summarise(rounds: Sequence[Sequence[float]], mixed: bool = False) -> Latency | None:
    """Summarise latencies.

    Args:
        rounds: Milliseconds of each call, one sequence a round.
        mixed: Whether the calls had images of many sizes.

    Returns:
        The figures of all calls together; None where there is not one.
    """
    taken = [np.asarray(latencies, np.float64) for latencies in rounds if len(latencies)]
    if not taken:
        return None
    pooled = np.concatenate(taken)
    n = len(pooled)
    percentiles = {q: float(np.percentile(pooled, q)) if n >= least else None for q, least in SUPPORT.items()}
    return Latency(
        n=n,
        mean=float(pooled.mean()),
        min=float(pooled.min()),
        max=float(pooled.max()),
        cv=float(pooled.std(ddof=1) / pooled.mean()) if n > 1 and not mixed else None,
        p50=percentiles[50],
        p90=percentiles[90],
        p95=percentiles[95],
        p99=percentiles[99],
        rounds_p50=[float(np.median(latencies)) for latencies in taken],
        samples=[float(pooled[i * n // min(n, KEPT)]) for i in range(min(n, KEPT))],
    )
