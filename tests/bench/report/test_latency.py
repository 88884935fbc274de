"""Latency statistics: percentiles, and from how many calls they are given."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from musiq_bench.report.latency import Latency, by_size, summarise


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


def test_latencies_are_given_by_the_size_of_the_images_small_ones_first() -> None:
    rng = np.random.default_rng(2)
    small, large = rng.gamma(3, size=120), rng.gamma(9, size=60)
    taken = [*large[:30], *small, *large[30:]]
    sizes = [*[(1000, 1500)] * 30, *[(300, 400)] * 60, *[(400, 300)] * 60, *[(1500, 1000)] * 30]
    found = by_size(taken, sizes)
    assert [(each.size, each.n) for each in found] == [("0.0625-0.125 MP", 120), ("1-2 MP", 60)]
    assert (found[0].p50, found[0].p90) == pytest.approx((np.quantile(small, 0.5), np.quantile(small, 0.9)))
    assert (found[1].mean, found[1].max) == pytest.approx((large.mean(), large.max()))
    assert found[1].p90 is None
    mixture = summarise([taken], mixed=True)
    assert mixture is not None
    assert mixture.cv is None, "calls with images of many sizes differ by nature"


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
