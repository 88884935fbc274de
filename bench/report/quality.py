"""What an artifact keeps of the scores: against the reference's scores on the same images, and against labels.

A figure that does not exist is None, and `words` says in a word or two why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from musiq import metrics

Floats = NDArray[np.float64]


@dataclass
class Quality:
    """Figures by name, None where undefined, and then a word under the same name; notes for the reader."""

    figures: dict[str, Any] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Quality) -> None:
        self.figures.update(other.figures)
        self.words.update(other.words)
        self.notes += other.notes

    def put(self, name: str, value: float | None, word: str = "undefined") -> None:
        sound = value is not None and math.isfinite(value)
        self.figures[name] = value if sound else None
        if not sound:
            self.words[name] = word


def against_reference(scores: ArrayLike, reference: ArrayLike) -> Quality:
    """`srcc_reference`, `max_difference` and `mean_difference` (absolute, in score units), `difference_at`: the index
    of the image with the largest."""
    ours, theirs = np.asarray(scores, np.float64), np.asarray(reference, np.float64)
    quality = Quality()
    quality.put("srcc_reference", metrics.srcc(ours, theirs), metrics.undefined(ours, theirs))
    difference = np.abs(ours - theirs)
    lost = int((~np.isfinite(difference)).sum())
    for name, reduce in (("max_difference", np.max), ("mean_difference", np.mean)):
        quality.put(name, None if lost else float(reduce(difference)), f"{lost} scores are not numbers")
    quality.figures["difference_at"] = None if lost else int(difference.argmax())
    return quality


def against_labels(scores: ArrayLike, labels: ArrayLike, reference: ArrayLike | None = None) -> Quality:
    """`srcc`, `plcc`, `plcc_fitted`, `krcc`, `rmse` with their 95% intervals `*_interval`, and with a reference the
    paired difference `srcc_delta`: SRCC of `scores` minus SRCC of `reference`, both on the same resampled images.

    Intervals are percentile bootstrap over images. `plcc_fitted` has none: a thousand fits take longer than the run.
    """
    ours, wanted = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    quality = Quality()
    word = metrics.undefined(ours, wanted)
    ends = metrics.intervals(ours, wanted)
    for name, metric in metrics.METRICS.items():
        quality.put(name, metric(ours, wanted), word or "no fit")
        quality.figures[f"{name}_interval"] = ends.get(name)
        if name not in ends:
            quality.words[f"{name}_interval"] = word or "not resampled: a thousand fits take minutes"
        elif ends[name] is None:
            quality.words[f"{name}_interval"] = word or "too many resamples are degenerate"
    quality.figures["srcc_delta"] = quality.figures["srcc_delta_interval"] = None
    if reference is not None:
        delta, interval = metrics.srcc_difference(ours, reference, wanted)
        quality.put("srcc_delta", delta, word or metrics.undefined(reference, wanted))
        quality.figures["srcc_delta_interval"] = interval
    return quality
