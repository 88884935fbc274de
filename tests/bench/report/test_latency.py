"""Latency statistics: percentiles, and from how many calls they are given."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from musiq_bench.report.latency import Latency, summarise


def test_percentiles_are_numpys_over_all_rounds_together() -> None:
    rng = np.random.default_rng(1)
    rounds = [rng.gamma(3, size=500).tolist() for _ in range(2)]
    found = summarise(rounds)
    assert found is not None
    pooled = np.concatenate(rounds)
    expected = np.quantile(pooled, [0.5, 0.9, 0.95, 0.99])
    np.testing.assert_allclose([found.p50, found.p90, found.p95, found.p99], expected)
    assert found.cv == pytest.approx(stats.variation(pooled, ddof=1))
    assert found.rounds_p50 == pytest.approx([np.median(each) for each in rounds])


@pytest.mark.parametrize(
    ("n", "given"),
    [(1, ""), (5, "p50"), (99, "p50"), (100, "p50 p90"), (200, "p50 p90 p95"), (1000, "p50 p90 p95 p99")],
)
def test_a_percentile_is_given_only_where_the_calls_support_it(n: int, given: str) -> None:
    found = summarise([list(range(1, n + 1))])
    assert found is not None
    assert [q for q in ("p50", "p90", "p95", "p99") if getattr(found, q) is not None] == given.split()


def test_no_call_has_no_latency() -> None:
    assert summarise([[], []]) is None


def test_the_latency_schema_keeps_its_names() -> None:
    names = [field.name for field in dataclasses.fields(Latency)]
    assert names == ["n", "mean", "min", "max", "cv", "p50", "p90", "p95", "p99", "rounds_p50", "samples"]
