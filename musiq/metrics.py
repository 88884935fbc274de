"""How well scores agree with labels: SRCC, KRCC, PLCC (raw and after the usual logistic fit) and RMSE.

Each is `f(predicted, labels) -> float` over two sequences of n numbers. Where a figure is undefined the answer is NaN,
never an exception or a warning, and `undefined(predicted, labels)` says why in words.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

FEWEST = 3  # two points always lie on a line: a correlation of fewer than three says nothing


def undefined(predicted: ArrayLike, labels: ArrayLike) -> str:
    """Why no correlation of these exists, "" if one does: too few, not finite, or one side constant."""
    scores, wanted = _pair(predicted, labels)
    if len(scores) < FEWEST:
        return f"fewer than {FEWEST} images"
    if not (np.isfinite(scores).all() and np.isfinite(wanted).all()):
        return "a score or label is not a number"
    if np.ptp(wanted) == 0:
        return "constant labels"
    return "constant scores" if np.ptp(scores) == 0 else ""


def srcc(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Spearman's rank correlation in [-1, 1], ties with their average rank; NaN where `undefined`."""
    if undefined(predicted, labels):
        return math.nan
    scores, wanted = _pair(predicted, labels)
    return _pearson(ranks(scores), ranks(wanted))


def krcc(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Kendall's tau-b in [-1, 1], which allows for ties; NaN where `undefined`. Time grows with n squared."""
    if undefined(predicted, labels):
        return math.nan
    scores, wanted = _pair(predicted, labels)
    agreeing, score_pairs, label_pairs = 0.0, 0, 0
    for i in range(1, len(scores)):  # one row of the pair matrix at a time: n numbers in memory, not n squared
        by_score, by_label = np.sign(scores[:i] - scores[i]), np.sign(wanted[:i] - wanted[i])
        agreeing += float(by_score @ by_label)
        score_pairs += int(np.count_nonzero(by_score))
        label_pairs += int(np.count_nonzero(by_label))
    return agreeing / math.sqrt(score_pairs) / math.sqrt(label_pairs)


def plcc(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Pearson's linear correlation in [-1, 1], raw; NaN where `undefined`."""
    if undefined(predicted, labels):
        return math.nan
    return _pearson(*_pair(predicted, labels))


def plcc_fitted(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Pearson's correlation after a 4-parameter logistic is fitted from scores to labels.

    y = (b1 - b2) / (1 + exp(-(x - b3) / |b4|)) + b2, the mapping of the VQEG reports (FR-TV phase I, 2000). NaN where
    `undefined`, with fewer than 5 images (as many parameters as points), where the fit does not converge, and where
    scipy is not installed.
    """
    scores, wanted = _pair(predicted, labels)
    if undefined(scores, wanted) or len(scores) < 5:
        return math.nan
    scores = scores / np.abs(scores).max()
    fitted = _fit_logistic((scores - scores.mean()) / scores.std(), wanted)
    return math.nan if fitted is None else plcc(fitted, wanted)


def rmse(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Root of the mean squared difference, in the labels' units; NaN for no images or a number that is not finite."""
    scores, wanted = _pair(predicted, labels)
    if not len(scores) or not (np.isfinite(scores).all() and np.isfinite(wanted).all()):
        return math.nan
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.mean((scores - wanted) ** 2)))


METRICS = {"srcc": srcc, "plcc": plcc, "plcc_fitted": plcc_fitted, "krcc": krcc, "rmse": rmse}


def agreement(predicted: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Every figure of this module by its name."""
    return {name: metric(predicted, labels) for name, metric in METRICS.items()}


RESAMPLES = 1000
"""Bootstrap resamples of an interval: the customary least for a 95% percentile interval (Efron & Tibshirani 1993, 13)."""


def intervals(predicted: ArrayLike, labels: ArrayLike, seed: int = 0) -> dict[str, tuple[float, float] | None]:
    """The 95% intervals of srcc, plcc, krcc and rmse: percentile bootstrap over images, the same for the same seed.

    None where a figure is undefined, also in too many resamples to tell. `plcc_fitted` has none: a thousand fits take
    minutes. Time: some seconds for 2,000 images.
    """
    scores, wanted = _pair(predicted, labels)
    if undefined(scores, wanted):
        return dict.fromkeys(RESAMPLED)
    return {
        name: middle([metric(scores[sample], wanted[sample]) for sample in resamples(len(scores), seed)])
        for name, metric in RESAMPLED.items()
    }


def srcc_difference(
    predicted: ArrayLike, reference: ArrayLike, labels: ArrayLike, seed: int = 0
) -> tuple[float, tuple[float, float] | None]:
    """SRCC of `predicted` minus SRCC of `reference`, and its 95% interval, paired: both on the same resampled images.

    Far narrower than the intervals of the two by themselves, because what makes a sample of images hard is hard for
    both. NaN and None where one of the two is undefined; None too where that is so in too many resamples.
    """
    (ours, wanted), (theirs, _) = _pair(predicted, labels), _pair(reference, labels)
    if undefined(ours, wanted) or undefined(theirs, wanted):
        return math.nan, None
    drawn = [srcc(ours[i], wanted[i]) - srcc(theirs[i], wanted[i]) for i in resamples(len(wanted), seed)]
    return srcc(ours, wanted) - srcc(theirs, wanted), middle(drawn)


def resamples(count: int, seed: int = 0) -> NDArray[np.int64]:
    """RESAMPLES drawings of `count` places with replacement, int64 (RESAMPLES, count), the same for the same seed."""
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def middle(values: Sequence[float]) -> tuple[float, float] | None:
    """The ends of the middle 95% of resampled values; None where more than a tenth of them are not finite."""
    sound = [value for value in values if math.isfinite(value)]
    if not sound or len(sound) < 0.9 * len(values):
        return None
    low, high = np.percentile(sound, (2.5, 97.5))
    return float(low), float(high)


def _kendall(predicted: ArrayLike, labels: ArrayLike) -> float:
    """As `krcc`, in n log n; NaN without scipy."""
    try:
        from scipy.stats import kendalltau
    except ImportError:
        return math.nan
    return math.nan if undefined(predicted, labels) else float(kendalltau(*_pair(predicted, labels)).statistic)


RESAMPLED = {"srcc": srcc, "plcc": plcc, "krcc": _kendall, "rmse": rmse}


def ranks(values: ArrayLike) -> Floats:
    """Ranks 1..n of n numbers, ties with the average of the ranks they share."""
    _, places, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    averages: Floats = last - (counts - 1) / 2
    return averages[places]


def _pair(predicted: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    scores, wanted = np.asarray(predicted, np.float64).ravel(), np.asarray(labels, np.float64).ravel()
    if len(scores) != len(wanted):
        raise ValueError(f"{len(scores)} scores and {len(wanted)} labels: there must be one label for each score")
    return scores, wanted


def _pearson(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    # To [-1, 1], so that no square leaves double precision.
    x, y = x / (np.abs(x).max() or 1), y / (np.abs(y).max() or 1)
    product = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(np.clip(x @ y / product, -1, 1)) if product > 0 else math.nan


def _fit_logistic(x: Floats, y: Floats) -> Floats | None:
    """The logistic's values at x (standardised, so that its start suits any units); None where there is no fit."""
    try:
        from scipy.optimize import OptimizeWarning, curve_fit
    except ImportError:
        return None
    # The start slopes the way the scores do: |b4| alone cannot turn a falling curve into a rising one.
    rising = _pearson(x, y) >= 0
    start = [y.max(), y.min(), 0.0, 0.5] if rising else [y.min(), y.max(), 0.0, 0.5]
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # a curve that meets its points exactly has no covariance
            found, _ = curve_fit(_logistic, x, y, p0=start, maxfev=20000, ftol=1e-10, xtol=1e-10)
    except (RuntimeError, ValueError):  # no convergence
        return None
    fitted = _logistic(x, *found)
    return fitted if np.isfinite(fitted).all() else None


def _logistic(x: Floats, b1: float, b2: float, b3: float, b4: float) -> Floats:
    # tanh does not overflow: 1 / (1 + exp(-t)) = (1 + tanh(t / 2)) / 2.
    slope = max(abs(b4), 1e-12)
    return np.asarray((b1 - b2) * (1 + np.tanh((x - b3) / (2 * slope))) / 2 + b2)
