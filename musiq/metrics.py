"""Agreement of scores with labels: SRCC, KRCC, PLCC (raw and after the usual logistic fit), RMSE, bootstrap intervals.

Each metric is `f(predicted, labels) -> float` over two sequences of n numbers. Where a figure is undefined the answer is
NaN, never an exception or a warning, and `undefined(predicted, labels)` says why in words.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from musiq.errors import MusiqError, pip_install

Floats = NDArray[np.float64]

FEWEST = 3  # two points always lie on a line: a correlation of fewer than three says nothing


def undefined(predicted: ArrayLike, labels: ArrayLike) -> str:
    """Why there is no correlation of these.

    Args:
        predicted: n scores.
        labels: n labels.

    Returns:
        The reason in a few words: too few, not finite, or one side constant; "" where there is a correlation.

    Raises:
        ValueError: There are not as many labels as scores.
    """
    scores, wanted = _pair(predicted, labels)
    if len(scores) < FEWEST:
        return f"fewer than {FEWEST} images"
    if not (np.isfinite(scores).all() and np.isfinite(wanted).all()):
        return "a score or label is not a number"
    if np.ptp(wanted) == 0:
        return "constant labels"
    return "constant scores" if np.ptp(scores) == 0 else ""


def srcc(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Spearman's rank correlation coefficient; ties have their average rank.

    Args:
        predicted: n scores, in any units.
        labels: n labels, such as mean opinion scores (MOS).

    Returns:
        A number in [-1, 1], 1 for the same order; NaN where `undefined`.

    Raises:
        ValueError: There are not as many labels as scores.
        MusiqError: scipy is not installed.

    References:
        C. Spearman (1904). "The proof and measurement of association between two things". American Journal of
        Psychology 15(1), 72-101. https://doi.org/10.2307/1412159
    """
    if undefined(predicted, labels):
        return math.nan
    rank = _scipy_stats().rankdata
    return _correlation(*map(rank, _pair(predicted, labels)))


def krcc(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Kendall's rank correlation coefficient, tau-b, which allows for ties. Time grows with n log n.

    Args:
        predicted: n scores, in any units.
        labels: n labels.

    Returns:
        A number in [-1, 1], 1 for the same order; NaN where `undefined`.

    Raises:
        ValueError: There are not as many labels as scores.
        MusiqError: scipy is not installed.

    References:
        M. G. Kendall (1945). "The treatment of ties in ranking problems". Biometrika 33(3), 239-251.
        https://doi.org/10.1093/biomet/33.3.239
    """
    if undefined(predicted, labels):
        return math.nan
    # The method is that of the p-value, which nobody asks for: this one takes no time.
    return float(_scipy_stats().kendalltau(*_pair(predicted, labels), method="asymptotic").statistic)


def plcc(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Pearson's linear correlation coefficient, of the numbers as they are.

    Args:
        predicted: n scores, in any units.
        labels: n labels.

    Returns:
        A number in [-1, 1], 1 for points on a rising line; NaN where `undefined`.

    Raises:
        ValueError: There are not as many labels as scores.

    References:
        K. Pearson (1895). "Notes on regression and inheritance in the case of two parents". Proceedings of the Royal
        Society of London 58, 240-242. https://doi.org/10.1098/rspl.1895.0041
    """
    if undefined(predicted, labels):
        return math.nan
    return _correlation(*_pair(predicted, labels))


def plcc_fitted(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Pearson's correlation after a 4-parameter logistic is fitted from scores to labels.

    y = (b1 - b2) / (1 + exp(-(x - b3) / abs(b4))) + b2

    Args:
        predicted: n scores, in any units.
        labels: n labels.

    Returns:
        A number in [-1, 1]; NaN where `undefined`, with fewer than 5 images (as many parameters as points), and where
        the fit does not converge.

    Raises:
        ValueError: There are not as many labels as scores.
        MusiqError: scipy is not installed.

    References:
        Video Quality Experts Group (2000). "Final report from the Video Quality Experts Group on the validation of
        objective models of video quality assessment" (FR-TV phase I). https://www.vqeg.org
    """
    scores, wanted = _pair(predicted, labels)
    if undefined(scores, wanted) or len(scores) < 5:
        return math.nan
    scores = scores / np.abs(scores).max()
    fitted = _fit_logistic((scores - scores.mean()) / scores.std(), wanted)
    return math.nan if fitted is None else plcc(fitted, wanted)


def rmse(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Root of the mean squared difference.

    Args:
        predicted: n scores, in the units of the labels.
        labels: n labels.

    Returns:
        A number of at least 0 in the labels' units; NaN for no images or a number that is not finite.

    Raises:
        ValueError: There are not as many labels as scores.
    """
    scores, wanted = _pair(predicted, labels)
    if not len(scores) or not (np.isfinite(scores).all() and np.isfinite(wanted).all()):
        return math.nan
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.mean((scores - wanted) ** 2)))


METRICS = {"srcc": srcc, "plcc": plcc, "plcc_fitted": plcc_fitted, "krcc": krcc, "rmse": rmse}
"""Every metric by its name in reports."""


def agreement(predicted: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Every metric of METRICS by its name; NaN where it is undefined. Arguments and errors are those of `srcc`."""
    return {name: metric(predicted, labels) for name, metric in METRICS.items()}


RESAMPLES = 1000
"""Bootstrap resamples of an interval: the customary least for a 95% percentile interval (Efron & Tibshirani 1993, 13)."""


def bootstrap(statistic: Callable[..., float], *samples: ArrayLike) -> tuple[float, float] | None:
    """The 95% interval of a statistic: percentile bootstrap over images, always with the same draws.

    Args:
        statistic: Called with resampled `samples`, all drawn at the same places; gives a number, not a finite one where
            it is undefined.
        samples: Sequences of n values each, one a image: scores, labels.

    Returns:
        The ends of the middle 95% of RESAMPLES values; None where more than a tenth of them are not finite.

    References:
        B. Efron, R. J. Tibshirani (1993). "An Introduction to the Bootstrap". Chapman & Hall, chapter 13.
        https://doi.org/10.1201/9780429246593
    """
    arrays = [np.asarray(sample, np.float64).ravel() for sample in samples]
    count = len(arrays[0])
    drawn = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    values = [statistic(*(array[places] for array in arrays)) for places in drawn]
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 0.9 * len(values):
        return None
    low, high = np.percentile(finite, (2.5, 97.5))
    return float(low), float(high)


def intervals(predicted: ArrayLike, labels: ArrayLike) -> dict[str, tuple[float, float] | None]:
    """The 95% intervals of srcc, plcc, krcc and rmse, as `bootstrap` finds them. Some seconds for 2,000 images.

    `plcc_fitted` has none: a thousand fits take minutes.

    Args:
        predicted: n scores.
        labels: n labels.

    Returns:
        For each metric its low and high end; None where a figure is undefined, also in too many resamples to tell.

    Raises:
        ValueError: There are not as many labels as scores.
        MusiqError: scipy is not installed.
    """
    scores, wanted = _pair(predicted, labels)
    resampled = {name: metric for name, metric in METRICS.items() if metric is not plcc_fitted}
    if undefined(scores, wanted):
        return dict.fromkeys(resampled)
    return {name: bootstrap(metric, scores, wanted) for name, metric in resampled.items()}


def srcc_difference(
    predicted: ArrayLike, reference: ArrayLike, labels: ArrayLike
) -> tuple[float, tuple[float, float] | None]:
    """SRCC of `predicted` minus SRCC of `reference` and its 95% interval, paired: both on the same resampled images.

    Far narrower than the intervals of the two by themselves, because what makes a sample of images hard is hard for
    both.

    Args:
        predicted: n scores of one model.
        reference: n scores of another model on the same images.
        labels: n labels of these images.

    Returns:
        The difference, in [-2, 2], and the ends of its interval; NaN and None where one of the two SRCCs is undefined,
        None too where that is so in too many resamples.

    Raises:
        ValueError: There are not as many labels as scores.
        MusiqError: scipy is not installed.
    """

    def difference(ours: Floats, theirs: Floats, wanted: Floats) -> float:
        return srcc(ours, wanted) - srcc(theirs, wanted)

    (ours, wanted), (theirs, _) = _pair(predicted, labels), _pair(reference, labels)
    if undefined(ours, wanted) or undefined(theirs, wanted):
        return math.nan, None
    return difference(ours, theirs, wanted), bootstrap(difference, ours, theirs, wanted)


def _pair(predicted: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    scores, wanted = np.asarray(predicted, np.float64).ravel(), np.asarray(labels, np.float64).ravel()
    if len(scores) != len(wanted):
        raise ValueError(f"{len(scores)} scores and {len(wanted)} labels: there must be one label for each score")
    return scores, wanted


def _correlation(first: Floats, second: Floats) -> float:
    """Pearson's, by numpy: scipy's functions take many times as long for the checks around it, and an interval needs
    thousands."""
    # Centred and to [-1, 1], so that no square leaves double precision.
    centred = (side - side.mean() for side in (first, second))
    scaled = [side / (np.abs(side).max() or 1) for side in centred]
    with np.errstate(divide="ignore", invalid="ignore"):  # sides that are nearly constant
        return float(np.corrcoef(*scaled)[0, 1])


def _scipy_stats() -> ModuleType:
    try:
        from scipy import stats
    except ImportError as problem:
        raise MusiqError(f"Correlations need scipy ({problem}): {pip_install('train')} (or [bench]).") from problem
    return stats


def _fit_logistic(x: Floats, y: Floats) -> Floats | None:
    """The logistic's values at x (standardised, so that its start suits any units); None where there is no fit."""
    # The start slopes the way the scores do: |b4| alone cannot turn a falling curve into a rising one.
    rising = plcc(x, y) >= 0
    _scipy_stats()  # or what to install
    from scipy.optimize import OptimizeWarning, curve_fit

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
