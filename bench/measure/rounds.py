"""The run: every model at every batch size in rounds, one fresh process at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..plan.cases import Cell, Message, Outcome, Settings, job_of
from ..plan.images import ImageSet
from ..plan.models import COMPILED
from .process import measure

Progress = Callable[[str], None]
Keep = Callable[[Cell, int, Outcome], None]
"""Is given each round as soon as it is measured: the cell, which round, and what came of it."""


def run_rounds(
    cells: Sequence[Cell],
    images: ImageSet,
    settings: Settings,
    progress: Progress,
    keep: Keep = lambda cell, turn, outcome: None,
) -> bool:
    """Fill the cells, round by round; True if Ctrl-C ended it early. A cell that failed is not tried again.

    Rounds, so that a machine that warms up or gets busy slows all rows alike and not the last ones. A cell that has
    rounds already goes on after them.
    """
    try:
        for turn in range(settings.rounds):
            for cell in cells:
                if len(cell.outcomes) <= turn < cell.rounds(settings) and not cell.broken:
                    outcome = _measure(cell, turn, _wants_scores(cell, cells), images, settings, progress)
                    cell.outcomes.append(outcome)
                    keep(cell, turn, outcome)
                progress("")
    except KeyboardInterrupt:
        return True
    return False


def _wants_scores(cell: Cell, cells: Sequence[Cell]) -> bool:
    """Whether all images are still to be scored by this model: once for an artifact, not once for a batch size."""
    return not any(other.scores for other in cells if other.candidate == cell.candidate)


def _measure(cell: Cell, turn: int, score: bool, images: ImageSet, settings: Settings, progress: Progress) -> Outcome:
    compiled = " compiled," if cell.candidate.format == COMPILED else ""
    cast = "" if cell.candidate.cast == "fp32" else f" {cell.candidate.cast},"
    name = f"{cell.candidate.path.name},{compiled}{cast} batch {cell.batch}, round {turn + 1}"
    progress(f"{name}: opening")

    def feed(opened: Message) -> Message:
        raw = images.decoded(
            opened["height"], opened["width"], lambda done, of: progress(f"decoding images {done}/{of}")
        )
        return {"raw": str(raw), "files": [str(file.absolute()) for file in images.files]}

    def heard(message: Message) -> None:
        progress(f"{name}: {message['doing']} {message['done']}/{message['of']}")

    cache = str(images.scratch / "compiled") if cell.candidate.compiled else None
    return measure(job_of(cell, settings, score, cache), feed, heard, settings.timeout_s)
