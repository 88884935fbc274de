"""Which groups of layers int8 may have: measured on real images, group by group, and not guessed.

Rounding errors of different layers are nearly independent, so that what a group costs alone tells how much is won by
sparing it. That the rest together is good enough is then measured, and not concluded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from musiq.artifact import Cost, Sensitivity
from musiq.errors import RefusedError
from musiq.metrics import srcc
from musiq.spec import Spec

from ..check.compare import allowed_difference
from ..request import Limits, Scores

MARGIN = 2 / 3
"""The part of the limits that the pass may use up: the largest of 200 differences, which the final check may see, is
about one and a half times the largest of 24 (for a normal distribution 2.9 against 2.1 standard deviations)."""

ALONE = 12
"""Images on which each group is measured alone: enough to put the groups in order. All of them judge the rest."""


def good_enough(found: Scores, reference: Scores, spec: Spec, limits: Limits) -> bool:
    """Whether `found` keeps within `limits` less the margin. A single swap of neighbours is always let pass: on few
    images it costs more than any limit allows, and says nothing."""
    together, n = cost(found, reference), len(reference)
    allowed = allowed_difference(Limits(limits.difference * MARGIN, limits.srcc), spec, reference)
    one_swap = 1 - 12 / (n * (n * n - 1))
    least = min(1 - (1 - limits.srcc) * MARGIN, one_swap)
    return together.max_difference <= allowed and (together.srcc is None or together.srcc >= least - 1e-6)


def choose(
    groups: Collection[str],
    scores: Callable[[Collection[str], int], Scores],
    reference: Scores,
    spec: Spec,
    limits: Limits,
    advance: Callable[[], object],
    known: Sensitivity | None = None,
) -> Sensitivity:
    """Keep as few of the costliest groups in fp32 as needed for the rest to score within `limits` less a margin, found
    by halving.

    Args:
        groups: Names of the groups of layers that may be int8.
        scores: Gives the scores (n,) of the first n images with the groups named in int8.
        reference: The fp32 scores (N,) of all images.
        spec: Says the score range.
        limits: Of the differences and the rank correlation.
        advance: Called after each group.
        known: What was found for the same groups in another form of the graph, whose costs differ by the rounding of
            floats alone: they are not measured again, and what was chosen is taken if it scores within the limits here.

    Returns:
        What each group costs, and which stay in fp32.

    Raises:
        RefusedError: Where no group may be int8.
    """
    costs = dict(known.groups) if known else {}
    if known:
        found = scores([name for name in groups if name not in known.kept_fp32], len(reference))
        if good_enough(found, reference, spec, limits):
            return replace(known, together=cost(found, reference))
    for name in groups if not known else ():
        costs[name] = cost(scores([name], ALONE), reference[:ALONE])
        advance()
    order = sorted(groups, key=lambda name: -costs[name].mean_difference)
    few, many, best = 0, len(order), None  # how many are kept: the least that may do, the least known to do
    middle = 0  # mostly nothing has to be kept
    while few < many:
        found = scores(order[middle:], len(reference))
        if good_enough(found, reference, spec, limits):
            many, best = middle, cost(found, reference)
        else:
            few = middle + 1
        middle = (few + many) // 2
    if best is not None:
        return Sensitivity(len(reference), tuple(order[:many]), best, costs)
    worst = ", ".join(order[:3])
    raise RefusedError(
        f"Nothing of this model can be int8 within SRCC {limits.srcc} and {limits.difference}% of the score range (worst: "
        f"{worst}). Take fp16 or fp32, or loosen --max-difference and --min-srcc."
    )


def cost(found: Scores, reference: Scores) -> Cost:
    difference = np.abs(found.astype(np.float64) - reference)
    # A NaN is worse than any number.
    difference = np.where(np.isnan(difference), np.inf, difference)
    ranks = srcc(found, reference)
    return Cost(float(difference.max()), float(difference.mean()), None if np.isnan(ranks) else round(ranks, 6))
