"""How well a model's scores agree: with the reference's scores on the same images, and with labels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike

from musiq import metrics

Interval = list[float]  # [low, high], 95%


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval; where one does not exist it is None, and `reason` or `interval_reason` says why."""

    value: float | None = None
    interval: Interval | None = None
    reason: str = ""
    interval_reason: str = ""


@dataclass(frozen=True)
class _Estimates:
    def reasons(self) -> Iterator[tuple[str, str]]:
        """Of each figure and interval that does not exist: its name in the report's row, and why."""
        for field in fields(self):
            estimate = getattr(self, field.name)
            if isinstance(estimate, Estimate):
                yield from ((field.name, estimate.reason),) if estimate.reason else ()
                yield from ((f"{field.name}_interval", estimate.interval_reason),) if estimate.interval_reason else ()


@dataclass(frozen=True)
class ReferenceAgreement(_Estimates):
    """Against the reference's scores.

    Attributes:
        srcc_reference: Spearman's correlation.
        max_difference: Largest absolute difference, in score units.
        mean_difference: Mean absolute difference, in score units.
        worst: Index of the image with the largest; None where a score is not a number.
    """

    srcc_reference: Estimate
    max_difference: Estimate
    mean_difference: Estimate
    worst: int | None = None


@dataclass(frozen=True)
class LabelAgreement(_Estimates):
    """Against labels: the figures of `musiq.metrics`, and `srcc_delta`, SRCC minus the reference's, paired over images."""

    srcc: Estimate
    plcc: Estimate
    plcc_fitted: Estimate
    krcc: Estimate
    rmse: Estimate
    srcc_delta: Estimate


def without_reference(reason: str) -> ReferenceAgreement:
    """No figures, for a model whose reference has no scores."""
    lacking = Estimate(reason=reason)
    return ReferenceAgreement(lacking, lacking, lacking)


def against_reference(scores: ArrayLike, reference: ArrayLike) -> ReferenceAgreement:
    """Compare with the reference's scores of the same images, in the same order."""
    ours, theirs = np.asarray(scores, np.float64), np.asarray(reference, np.float64)
    srcc = _estimate(metrics.srcc(ours, theirs), reason=metrics.undefined(ours, theirs))
    difference = np.abs(ours - theirs)
    if lost := int((~np.isfinite(difference)).sum()):
        lacking = Estimate(reason=f"{lost} scores are not numbers")
        return ReferenceAgreement(srcc, lacking, lacking)
    largest, mean = Estimate(float(difference.max())), Estimate(float(difference.mean()))
    return ReferenceAgreement(srcc, largest, mean, int(difference.argmax()))


def against_labels(scores: ArrayLike, labels: ArrayLike, reference: ArrayLike | None = None) -> LabelAgreement:
    """Compare with labels.

    Args:
        scores: Of n images.
        labels: Of the same images, in the same order.
        reference: The reference's scores of them; None without any, and then there is no `srcc_delta`.

    Returns:
        Each figure with its percentile bootstrap interval over images. `plcc_fitted` has none: a thousand fits take
        longer than the run.
    """
    ours, wanted = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    undefined = metrics.undefined(ours, wanted)
    intervals = metrics.intervals(ours, wanted)
    estimates = {}
    for name, metric in metrics.METRICS.items():
        value, interval = metric(ours, wanted), intervals.get(name)
        lacking = (
            "too many resamples are degenerate" if name in intervals else "not resampled: a thousand fits take minutes"
        )
        estimates[name] = _estimate(value, interval, undefined or "no fit", "" if interval else undefined or lacking)
    delta = Estimate()
    if reference is not None:
        value, interval = metrics.srcc_difference(ours, reference, wanted)
        delta = _estimate(value, interval, undefined or metrics.undefined(reference, wanted))
    return LabelAgreement(**estimates, srcc_delta=delta)


def _estimate(
    value: float, interval: tuple[float, float] | None = None, reason: str = "undefined", interval_reason: str = ""
) -> Estimate:
    ends = list(interval) if interval else None
    if math.isfinite(value):
        return Estimate(value, ends, "", interval_reason)
    return Estimate(None, ends, reason or "undefined", interval_reason)
