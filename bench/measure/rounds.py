"""The rounds of a run: every case once a round, each time in a fresh process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from musiq.terminal import ProgressBar

from ..plan.cases import BenchSettings, Case, job_of
from ..plan.images import ImageSet
from ..plan.job import DecodedFiles, Opened, Outcome
from ..plan.models import COMPILED
from .process import measure

Keep = Callable[[Case, int, Outcome], None]
"""Is given each round as soon as it is measured: the case, which round, and what came of it."""


def run_rounds(
    cases: Sequence[Case],
    images: ImageSet,
    settings: BenchSettings,
    bar: ProgressBar,
    keep: Keep = lambda case, turn, outcome: None,
) -> bool:
    """Measure every case in rounds, one process at a time.

    Rounds, so that a machine that warms up or gets busy slows all rows alike and not the last ones. A case that has
    rounds already goes on after them, and one that failed is not tried again.

    Args:
        cases: What to measure; each round's outcome is added to its case.
        images: The images that all models get; those that cannot be read are taken out of it.
        settings: How to measure.
        bar: Advances by one for each case and round.
        keep: Is called with each outcome at once, so that a run that is stopped loses none.

    Returns:
        Whether Ctrl-C ended it early.
    """
    try:
        for turn in range(settings.rounds):
            for case in cases:
                if turn >= case.rounds(settings):
                    continue
                if len(case.outcomes) <= turn and not case.failed:
                    outcome = _measure(case, turn, _wants_scores(case, cases), images, settings, bar)
                    case.outcomes.append(outcome)
                    keep(case, turn, outcome)
                bar.advance()
    except KeyboardInterrupt:
        return True
    return False


def _wants_scores(case: Case, cases: Sequence[Case]) -> bool:
    """Whether all images are still to be scored by this model: once for an artifact, not once for a batch size."""
    return not any(other.scores for other in cases if other.candidate == case.candidate)


def _measure(
    case: Case, turn: int, score: bool, images: ImageSet, settings: BenchSettings, bar: ProgressBar
) -> Outcome:
    compiled = " compiled," if case.candidate.format == COMPILED else ""
    cast = "" if case.candidate.cast == "fp32" else f" {case.candidate.cast},"
    name = f"{case.candidate.path.name},{compiled}{cast} batch {case.batch}, round {turn + 1}"
    bar.tell(note=f"{name}: opening")

    def decode(opened: Opened) -> DecodedFiles:
        return images.for_model(opened, lambda done, of: bar.tell(note=f"decoding images {done}/{of}"))

    cache = str(images.scratch / "compiled") if case.candidate.compiled else None
    job = job_of(case, settings, score, cache)
    return measure(job, decode, lambda doing: bar.tell(note=f"{name}: {doing}"), settings.timeout_s)
