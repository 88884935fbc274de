"""One run, from the cases that are wanted to the report: rounds, and the journal that keeps them."""

from __future__ import annotations

import dataclasses
import datetime
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from musiq.terminal import progress_bar

from .machine.environment import describe as describe_environment
from .measure import resume
from .measure.resume import Journal, conditions
from .measure.rounds import run_rounds
from .plan.cases import BenchSettings, Case
from .plan.images import ImageSet, Labels
from .report.assemble import assemble_rows
from .report.schema import Report
from .report.table import caption


@dataclass
class BenchRun:
    """One run of musiq-bench; finished rounds are kept in a journal in the folder `out`.

    Attributes:
        cases: What is measured.
        images: The images that all models get.
        labels: Their labels; None without any.
        settings: How it is measured.
        folders: What --images named.
        out: Where the journal lies.
        resumed: Rounds that were taken over from an earlier run.
    """

    cases: Sequence[Case]
    images: ImageSet
    labels: Labels | None
    settings: BenchSettings
    folders: Sequence[Path]
    out: Path
    resumed: int = 0

    def __post_init__(self) -> None:
        self.environment = describe_environment()  # before anything runs: its load average is what the run found
        self._conditions = conditions(self.settings, self.images, self.environment)

    def resume(self) -> None:
        """Take over the finished rounds of an earlier run. Raises MusiqError where it was measured otherwise."""
        self.resumed = resume.resume(self.out / resume.NAME, self.cases, self.settings, self._conditions)

    def measure(self) -> Report:
        """Measure what is left, until it is done or interrupted, and put all of it together."""
        journal = Journal(self.out / resume.NAME, self._conditions, anew=not self.resumed)
        with progress_bar(total=sum(case.rounds(self.settings) for case in self.cases)) as bar:
            self._leave_out_images()
            interrupted = run_rounds(self.cases, self.images, self.settings, bar, journal.add)
        mos = [each for each in self.labels.of(self.images.files) if each is not None] if self.labels else None
        report = Report(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            command=shlex.join(["musiq-bench", *sys.argv[1:]]),
            environment=self.environment,
            settings=dataclasses.asdict(self.settings),
            images=self.images.describe(self.folders),
            labels=self.labels.describe(len(mos)) if self.labels and mos is not None else None,
            caption="",
            rows=assemble_rows(self.cases, self.images, mos, self.settings),
            interrupted=interrupted,
            resumed=self.resumed,
        )
        report.caption = caption(report)
        return report

    def _leave_out_images(self) -> None:
        """Rounds that were taken over have scored readable images alone; decoding tells again which these are. Those that
        are too large for a model of any size are left out before another has scored them."""
        records = [case.candidate.record for case in self.cases if case.candidate.record]
        policy = next((record.spec.resize or "native" for record in records if record.spec.any_size), "")
        if policy:
            self.images.decoded(None, None, policy)
        taken = next((each.opened for case in self.cases for each in case.successful), None)
        if taken is not None:
            self.images.decoded(taken.height, taken.width, taken.resize)
