"""The check that an artifact must pass before it gets its name: its scores beside PyTorch's fp32 ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from musiq.artifact import Check
from musiq.metrics import srcc
from musiq.spec import Spec

from ..request import LIMITS, Limits, Scores

ENOUGH_IMAGES = 50
"""From so many on the rank correlation is judged in every precision."""


def compare(
    found: Scores,
    reference: Scores,
    spec: Spec,
    limits: Limits,
    provider: str,
    image_source: str,
    uncertain: NDArray[np.bool_] | None = None,
) -> Check:
    """How an artifact's scores agree with the original's; NaN anywhere never passes.

    Args:
        found: The artifact's scores (N,).
        reference: The original's (N,), in fp32.
        spec: Says the score range.
        limits: What passes.
        provider: What the runtime says of where it ran.
        image_source: Which images they are.
        uncertain: Where fp32 itself is uncertain, bool (N,): there the difference does not decide.

    Returns:
        The figures, which are those of all images, and whether they pass.
    """
    difference = np.abs(found.astype(np.float64) - reference)
    largest = float(difference.max())
    ranks = srcc(found, reference)
    decides = np.ones(len(found), np.bool_) if uncertain is None else ~uncertain
    decisive = float(difference[decides].max()) if decides.any() else float("nan")
    passed = decisive <= allowed_difference(limits, spec, reference)
    if judges_ranks(limits, reference):
        passed = passed and ranks >= limits.srcc
    return Check(
        images=len(reference),
        max_difference=largest,
        mean_difference=float(difference.mean()),
        srcc=None if np.isnan(ranks) else ranks,
        passed=bool(passed),
        provider=provider,
        image_source=image_source,
        decisive_difference=decisive,
        uncertain=int((~decides).sum()),
    )


def score_span(spec: Spec, reference: Scores | None) -> float:
    """The width of the score range; where the Spec knows none, the spread of the reference scores (0 without any)."""
    if spec.score_range is not None:
        return abs(spec.score_range[1] - spec.score_range[0])
    return float(reference.max() - reference.min()) if reference is not None else 0.0


def allowed_difference(limits: Limits, spec: Spec, reference: Scores) -> float:
    """The largest difference that passes, in score units."""
    # Scores of equal size cannot agree better than float32 can tell them apart.
    return max(limits.difference / 100 * score_span(spec, reference), 4e-6 * float(np.abs(reference).max()))


def judges_ranks(limits: Limits, reference: Scores) -> bool:
    """Whether the rank correlation decides. On few images it says little: a single swap of two that score alike costs
    0.003 of 16. So it decides from 50 images on, and always where exact agreement is asked for, as for fp32."""
    exact = limits.srcc >= LIMITS["fp32"].srcc and len(reference) >= 3
    return bool(np.ptp(reference) > 0) and (exact or len(reference) >= ENOUGH_IMAGES)


def lines(check: Check, spec: Spec, limits: Limits, reference: Scores) -> Iterator[str]:
    """The check for a person."""
    span, allowed = score_span(spec, reference), allowed_difference(limits, spec, reference)
    whole = "the spread of the scores" if spec.score_range is None else "the score range"
    share = f" ({100 * check.decisive_difference / span:.4f}% of {whole})" if span else ""
    yield (
        f"{_mark(check.decisive_difference <= allowed)} largest difference {check.decisive_difference:.2g} ≤ "
        f"{allowed:.2g}{share}, mean {check.mean_difference:.2g}"
    )
    if check.uncertain:
        yield (
            f"    but {check.max_difference:.2g} among {check.uncertain} of the images, where PyTorch's own fp32 is as "
            "far from float64"
        )
    if check.srcc is None:
        yield "[-] SRCC is not defined: fewer than 3 images, or all scores equal"
    elif judges_ranks(limits, reference):
        yield f"{_mark(check.srcc >= limits.srcc)} SRCC {check.srcc:.4f} ≥ {limits.srcc:.4f}"
    else:
        yield f"[-] SRCC {check.srcc:.4f}, not judged below {ENOUGH_IMAGES} images: give --images a folder of yours"
    yield f"    on {check.images} images ({check.image_source}), {check.provider}"


def _mark(good: bool) -> str:
    return "[✓]" if good else "[✗]"
