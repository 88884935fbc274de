"""One run from the rows that are wanted to the report, by way of the rounds and the journal that keeps them."""

from __future__ import annotations

import dataclasses
import datetime
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .machine.environment import describe as describe_environment
from .measure import resume
from .measure.progress import progress
from .measure.resume import Journal, conditions
from .measure.rounds import run_rounds
from .plan.cases import Cell, Settings
from .plan.images import ImageSet, Labels
from .report.assemble import rows
from .report.schema import Report
from .report.table import caption


@dataclass
class Run:
    """`folders` are what --images named; finished rounds are kept in a journal in the folder `out`."""

    cells: Sequence[Cell]
    images: ImageSet
    labels: Labels | None
    settings: Settings
    folders: Sequence[Path]
    out: Path
    resumed: int = 0

    def __post_init__(self) -> None:
        self.environment = describe_environment()  # before anything runs: its load average is what the run found
        self._conditions = conditions(self.settings, self.images, self.environment)

    def resume(self) -> None:
        """Take over the finished rounds of an earlier run. Raises MusiqError where it was measured otherwise."""
        self.resumed = resume.resume(self.out / resume.NAME, self.cells, self.settings, self._conditions)

    def measure(self) -> Report:
        """Measure what is left, until it is done or interrupted, and put all of it together."""
        kept = Journal(self.out / resume.NAME, self._conditions, anew=not self.resumed)
        steps = sum(cell.rounds(self.settings) for cell in self.cells)
        with progress(steps) as said:
            self._leave_out_broken_images()
            interrupted = run_rounds(self.cells, self.images, self.settings, said, kept.add)
        wanted = [mos for mos in self.labels.of(self.images.files) if mos is not None] if self.labels else None
        report = Report(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            command=shlex.join(["musiq-bench", *sys.argv[1:]]),
            environment=self.environment,
            settings=dataclasses.asdict(self.settings),
            images=self.images.describe(self.folders),
            labels=self.labels.describe(len(wanted)) if self.labels and wanted is not None else None,
            caption="",
            rows=rows(self.cells, self.images, wanted, self.settings),
            interrupted=interrupted,
            resumed=self.resumed,
        )
        report.caption = caption(report)
        return report

    def _leave_out_broken_images(self) -> None:
        """Rounds that were taken over have scored sound images alone; decoding tells again which these are."""
        taken = next((outcome.figures for cell in self.cells for outcome in cell.sound), None)
        if taken is not None:
            self.images.decoded(taken["height"], taken["width"])
