"""Agreement figures against scipy's, and what happens where there are none."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from musiq.errors import MusiqError
from musiq.metrics import (
    METRICS,
    agreement,
    bootstrap,
    intervals,
    krcc,
    plcc,
    plcc_fitted,
    rmse,
    srcc,
    srcc_difference,
    undefined,
)


def scores_and_labels(seed: int, ties: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    labels = rng.uniform(0, 100, 200)
    scores = labels / 20 + rng.normal(0, 1, 200)
    return (np.round(scores), np.round(labels, -1)) if ties else (scores, labels)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_correlations_are_those_of_scipy(seed: int, ties: bool) -> None:
    scores, labels = scores_and_labels(seed, ties)
    assert srcc(scores, labels) == pytest.approx(stats.spearmanr(scores, labels).statistic, abs=1e-12)
    assert krcc(scores, labels) == pytest.approx(stats.kendalltau(scores, labels).statistic, abs=1e-12)
    assert plcc(scores, labels) == pytest.approx(stats.pearsonr(scores, labels).statistic, abs=1e-12)


def test_correlations_of_ties_are_those_worked_out_by_hand() -> None:
    scores, labels = [1, 2, 2, 3], [1, 2, 3, 4]  # ranks 1, 2.5, 2.5, 4; five of six pairs agree, one is tied
    assert srcc(scores, labels) == pytest.approx(4.5 / math.sqrt(4.5 * 5), abs=1e-12)
    assert krcc(scores, labels) == pytest.approx(5 / math.sqrt(5 * 6), abs=1e-12)


def test_correlations_depend_on_no_units_however_large_or_small() -> None:
    scores, labels = scores_and_labels(0, ties=False)
    for scale in (1e-200, 1e300):
        assert plcc(scores * scale, labels) == pytest.approx(plcc(scores, labels), abs=1e-12)
        assert srcc(scores * scale, labels) == srcc(scores, labels)


def test_rmse_is_in_the_units_of_the_labels() -> None:
    assert rmse([1, 2, 3], [1, 4, 7]) == pytest.approx(math.sqrt((0 + 4 + 16) / 3))


def test_the_logistic_fit_recovers_a_logistic_relation_exactly() -> None:
    scores = np.linspace(-3, 5, 60)
    labels = (90 - 10) / (1 + np.exp(-(scores - 1.2) / 0.4)) + 10
    assert plcc(scores, labels) < 0.95
    assert plcc_fitted(scores, labels) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("scale", [1, 1e-4, -1, 1e5])
def test_the_logistic_fit_depends_on_no_units_and_no_direction(scale: float) -> None:
    scores, labels = scores_and_labels(3, ties=False)
    fitted = plcc_fitted(scores, labels)
    assert fitted >= plcc(scores, labels) - 1e-3
    assert plcc_fitted(scores * scale + 7, labels) == pytest.approx(fitted, abs=1e-4)


def test_a_model_that_ranks_backwards_has_a_negative_srcc() -> None:
    assert srcc([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("scores", "labels", "reason"),
    [
        ([], [], "fewer than 3 images"),
        ([1], [2], "fewer than 3 images"),
        ([1, 2], [2, 1], "fewer than 3 images"),
        ([1, 2, 3], [4, 4, 4], "constant labels"),
        ([5, 5, 5], [1, 2, 3], "constant scores"),
        ([1, math.nan, 3], [1, 2, 3], "a score or label is not a number"),
        ([1, math.inf, 3], [1, 2, 3], "a score or label is not a number"),
    ],
)
def test_what_is_undefined_is_nan_with_a_reason_and_no_warning(
    scores: list[float], labels: list[float], reason: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert undefined(scores, labels) == reason
        assert all(math.isnan(METRICS[name](scores, labels)) for name in ("srcc", "plcc", "plcc_fitted", "krcc"))
        agreement(scores, labels)


def test_huge_scores_end_in_no_exception_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(agreement([1e300, 2e300, 3e300, 4e300, 5e300], [1, 2, 3, 4, 5])) == set(METRICS)


@pytest.mark.parametrize("metric", [srcc, krcc, plcc_fitted])
def test_without_scipy_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, metric: Callable[[object, object], float]
) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MusiqError, match=r"need scipy .*: pip install .*\[train\]' \(or \[bench\]\)"):
        metric(*scores_and_labels(0, ties=True))
    assert math.isnan(metric([1, 2], [2, 1]))  # what is undefined needs none


def test_scores_without_their_labels_are_a_defect_of_the_caller() -> None:
    with pytest.raises(ValueError, match="3 scores and 2 labels"):
        srcc([1, 2, 3], [1, 2])


def test_a_paired_difference_of_srcc_is_far_surer_than_the_two_by_themselves() -> None:
    scores, labels = scores_and_labels(0, False)
    worse = scores + np.random.default_rng(1).normal(0, 0.2, 200)
    delta, interval = srcc_difference(worse, scores, labels)
    assert delta == pytest.approx(stats.spearmanr(worse, labels).statistic - stats.spearmanr(scores, labels).statistic)
    assert interval is not None
    low, high = interval
    assert low < delta < high

    def of_these(ours: NDArray[np.float64], wanted: NDArray[np.float64], axis: int = 0) -> float:
        return float(stats.spearmanr(ours, wanted).statistic)

    alone = stats.bootstrap(
        (worse, labels), of_these, paired=True, vectorized=False, n_resamples=1000, method="percentile", random_state=0
    ).confidence_interval
    assert high - low < 0.5 * (alone.high - alone.low)


def test_a_difference_to_constant_scores_is_undefined() -> None:
    scores, labels = scores_and_labels(0, False)
    delta, interval = srcc_difference(np.ones(200), scores, labels)
    assert math.isnan(delta)
    assert interval is None


def test_intervals_are_the_percentile_bootstraps() -> None:
    draw = np.random.default_rng(0)
    labels = draw.normal(size=150)
    scores = labels + draw.normal(size=150)
    found = intervals(scores, labels)
    for name, statistic in (("srcc", stats.spearmanr), ("plcc", stats.pearsonr), ("krcc", stats.kendalltau)):
        expected = stats.bootstrap(
            (scores, labels),
            lambda x, y, statistic=statistic: statistic(x, y).statistic,
            paired=True,
            vectorized=False,
            n_resamples=1000,
            method="percentile",
            random_state=1,
        ).confidence_interval
        assert found[name] == pytest.approx((expected.low, expected.high), abs=0.03), name
    assert found == intervals(scores, labels)
    low, high = found["rmse"] or (0, 0)
    assert low < np.sqrt(np.mean((scores - labels) ** 2)) < high


def test_there_is_no_interval_where_there_is_no_figure() -> None:
    assert set(intervals([1, 1, 1], [1, 2, 3]).values()) == {None}


def test_there_is_no_interval_where_too_many_resamples_are_degenerate() -> None:
    one_of_few = [0.0, 0, 0, 0, 0, 1]  # a third of its resamples lack the one that differs
    assert srcc(one_of_few, [1, 2, 3, 4, 5, 6]) > 0
    assert intervals(one_of_few, [1, 2, 3, 4, 5, 6])["srcc"] is None
    assert bootstrap(lambda drawn: float(np.mean(drawn)), one_of_few) is not None
