"""Agreement with the reference and with labels: figures, intervals, and reasons for those that do not exist."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats

from musiq_bench.report.quality import against_labels, against_reference


def test_differences_to_the_reference_are_numpys_and_name_the_image() -> None:
    theirs = np.array([1.0, 2.0, 3.0, 4.0])
    ours = theirs + np.array([0.0, 0.25, -0.5, 0.0])
    found = against_reference(ours, theirs)
    assert (found.max_difference.value, found.mean_difference.value, found.worst) == (0.5, 0.1875, 2)
    assert found.srcc_reference.value == pytest.approx(stats.spearmanr(ours, theirs).statistic)
    assert list(found.reasons()) == []


@pytest.mark.parametrize(
    ("scores", "labels", "word"),
    [
        ([1.0], [2.0], "fewer than 3 images"),
        ([1.0, 2.0, 3.0], [5.0, 5.0, 5.0], "constant labels"),
        ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0], "constant scores"),
        ([1.0, math.nan, 3.0], [1.0, 2.0, 3.0], "a score or label is not a number"),
    ],
)
def test_a_degenerate_comparison_gets_a_word_and_no_number(scores: list[float], labels: list[float], word: str) -> None:
    found = against_labels(scores, labels, reference=labels)
    assert found.srcc.value is found.srcc.interval is found.srcc_delta.value is found.srcc_delta.interval is None
    reasons = dict(found.reasons())
    assert reasons["srcc"] == reasons["srcc_interval"] == reasons["plcc"] == reasons["srcc_delta"] == word
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_a_score_that_is_no_number_leaves_no_difference() -> None:
    found = against_reference([1.0, math.nan, math.inf, 4.0], [1.0, 2.0, 3.0, 4.0])
    assert found.max_difference.value is found.worst is None
    assert dict(found.reasons())["max_difference"] == "2 scores are not numbers"


def test_intervals_hold_the_figure_and_are_about_as_wide_as_the_analytic_one() -> None:
    rng = np.random.default_rng(2)
    labels = rng.normal(size=200)
    scores = labels + rng.normal(size=200)
    found = against_labels(scores, labels)
    for estimate in (found.srcc, found.plcc, found.krcc, found.rmse):
        assert estimate.value is not None
        assert estimate.interval is not None
        assert estimate.interval[0] < estimate.value < estimate.interval[1]
    assert found.plcc_fitted.interval is None
    assert dict(found.reasons()) == {"plcc_fitted_interval": "not resampled: a thousand fits take minutes"}
    scipys = stats.pearsonr(scores, labels).confidence_interval()
    low, high = found.plcc.interval or (0, 0)
    assert (high - low) == pytest.approx(scipys.high - scipys.low, rel=0.25)


def test_the_paired_difference_is_far_narrower_than_either_interval() -> None:
    rng = np.random.default_rng(3)
    labels = rng.normal(size=200)
    theirs = labels + rng.normal(size=200)
    found = against_labels(theirs + 1e-3 * rng.normal(size=200), labels, theirs)
    assert found.srcc.interval is not None
    assert found.srcc_delta.interval is not None
    assert found.srcc_delta.value is not None
    low, high = found.srcc_delta.interval
    assert high - low < 0.1 * np.ptp(found.srcc.interval)
    assert low <= found.srcc_delta.value <= high
