"""`Scorer`: images in, scores out, in order; decoding ahead of the model, and no image's trouble is another's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One image's outcome: `score` in the units of `spec.target`, or `error`, why there is none.

    `fitted` says how the image was made to fit the model's size, "" where it already had it. `shares` are those of the
    ratings 1..K, for models that predict a distribution. `model` is the one that it went to, as it was given to the
    Scorer (#0, #1, ... for a Runtime); "" where it never got to one.
    """

    path: str
    score: float | None
    fitted: str = ""
    error: str = ""
    shares: tuple[float, ...] | None = None
    model: str = ""
