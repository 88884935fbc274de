"""What is a change and what is noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from musiq_bench.compare.significance import latency_change, spearman_interval, srcc_change
from musiq_bench.report.latency import Latency, summarise


def latency(middle: float, rounds: int, calls: int, seed: int, drift: float = 0.02, scatter: float = 0.03) -> Latency:
    rng = np.random.default_rng(seed)
    taken = [middle * rng.lognormal(0, drift) * rng.lognormal(0, scatter, calls) for _ in range(rounds)]
    found = summarise([each.tolist() for each in taken])
    assert found is not None
    return found


def test_the_interval_of_a_latency_is_as_wide_as_welchs() -> None:
    old, new = latency(100, 4, 200, seed=1, drift=0.05), latency(90, 6, 200, seed=2, drift=0.05)
    found = latency_change(old, new)
    assert found is not None
    logs = [np.log(each.rounds_p50) for each in (new, old)]
    welch = stats.ttest_ind(*logs, equal_var=False).confidence_interval()
    assert math.log((1 + found.high) / (1 + found.low)) == pytest.approx(welch.high - welch.low)
    assert found.low < found.difference < found.high
    assert old.p50 is not None
    assert found.difference == pytest.approx((new.p50 or 0) / old.p50 - 1)


def test_two_runs_of_one_thing_are_called_different_no_more_than_1_time_in_20() -> None:
    for rounds in (1, 3, 5):
        drift = 0.0 if rounds == 1 else 0.02  # one round cannot know how the next would differ
        pairs = [(latency(50, rounds, 60, 2 * i, drift), latency(50, rounds, 60, 2 * i + 1, drift)) for i in range(300)]
        found = [latency_change(old, new) for old, new in pairs]
        assert sum(change is not None and change.word != "same" for change in found) <= 25


@pytest.mark.parametrize(("ratio", "word"), [(0.8, "faster"), (1.25, "slower"), (1.005, "same"), (0.995, "same")])
def test_a_change_beyond_noise_has_a_name(ratio: float, word: str) -> None:
    old, new = latency(50, 5, 100, seed=3, drift=0.002), latency(50 * ratio, 5, 100, seed=4, drift=0.002)
    found = latency_change(old, new)
    assert found is not None
    assert found.word == word


def test_without_a_median_there_is_no_change_of_it() -> None:
    assert latency_change(latency(50, 1, 3, seed=0), latency(50, 1, 100, seed=1)) is None


def test_the_interval_of_a_rank_correlation_covers_what_is_true() -> None:
    rng = np.random.default_rng(0)
    true, n = 0.8, 100
    rho = 2 * math.sin(math.pi / 6 * true)  # of the normal variables whose Spearman correlation is `true`
    hits = 0
    for _ in range(400):
        x, y = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], n).T
        low, high = spearman_interval(float(stats.spearmanr(x, y).statistic), n)
        hits += low <= true <= high
    assert 0.91 <= hits / 400 <= 0.98
    assert spearman_interval(1.0, 50) == (1.0, 1.0)
    assert spearman_interval(0.5, 3) == (-1.0, 1.0)


def test_quality_is_worse_only_where_the_intervals_say_so() -> None:
    assert srcc_change(0.82, (0.77, 0.86), 0.80, (0.75, 0.84)).word == "same"
    assert srcc_change(0.82, (0.81, 0.83), 0.70, (0.69, 0.71)).word == "worse"
    assert srcc_change(0.70, (0.69, 0.71), 0.82, (0.81, 0.83)).word == "better"
    assert srcc_change(0.99999, (0.999985, 0.999995), 0.9998, (0.99975, 0.99985)).word == "same"
    # Zou's formula for the difference of two figures with intervals, by hand.
    found = srcc_change(0.6, (0.5, 0.68), 0.5, (0.38, 0.6))
    assert found.low == pytest.approx(-0.1 - math.sqrt(0.12**2 + 0.08**2))
    assert found.high == pytest.approx(-0.1 + math.sqrt(0.1**2 + 0.1**2))
