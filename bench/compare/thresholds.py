"""The thresholds of the --fail- options: which rows are not good enough, and by how much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from musiq.errors import MusiqError

from ..plan.cases import Case
from ..report.schema import ReportRow

BASELINE = "baseline"


@dataclass(frozen=True)
class SpeedThreshold:
    """--fail-slower-than NAME:RATIO: how many times the latency of another row a row may have.

    Attributes:
        name: The other row: "baseline" (each row's own PyTorch, eager), a model's name as the table has it, or its file's.
        ratio: The most that a row's p50 may be over the other's at the same batch size.
    """

    name: str
    ratio: float

    @classmethod
    def parse(cls, text: str) -> SpeedThreshold:
        """Raises MusiqError for anything but NAME:RATIO with a ratio above 0."""
        name, _, number = text.rpartition(":")
        try:
            ratio = float(number)
        except ValueError:
            ratio = math.nan
        if not name or not (math.isfinite(ratio) and ratio > 0):
            raise MusiqError(
                f"--fail-slower-than {text!r} is not NAME:RATIO with a ratio above 0; for example baseline:1.2, where "
                "NAME is baseline, or a model's name or file name."
            )
        return cls(name, ratio)

    def check(self, cases: Sequence[Case]) -> None:
        """Raise MusiqError, before anything is measured, where the name means no row, or several."""
        named = {
            case.candidate for case in cases if self.name in (case.name, case.candidate.path.name) and _plain(case)
        }
        if self.name == BASELINE:
            if not any(case.role == "reference" and case.timed for case in cases):
                raise MusiqError(
                    "--fail-slower-than baseline needs PyTorch timed in this run: give --checkpoint FILE, and no "
                    "--baseline none."
                )
        elif len(named) != 1:
            there = ", ".join(sorted({case.candidate.path.name for case in cases}))
            many = "means several models" if named else "is no model of this run"
            raise MusiqError(f"--fail-slower-than: {self.name!r} {many}; name one by its file: {BASELINE}, {there}.")

    def base(self, row: ReportRow, rows: Sequence[ReportRow]) -> ReportRow | None:
        """The row to hold `row` against: of the same batch size, and where it is the baseline also image size."""
        for other in sorted(rows, key=lambda other: other.device != row.device):  # the same device's first
            if other.batch != row.batch or other.role == "baseline":
                continue
            if self.name == BASELINE:
                if other.role == "reference" and _same_model(other, row):
                    return other
            elif self.name in (other.model, Path(other.path).name):
                return other
        return None


def _plain(case: Case) -> bool:
    """Not the compiled one, which shares its file with the eager one."""
    return case.role != "baseline"


def _same_model(reference: ReportRow, row: ReportRow) -> bool:
    return reference.path == row.reference and (reference.height, reference.width) == (row.height, row.width)


@dataclass(frozen=True)
class Thresholds:
    """What rows must keep to; None for a threshold that is not given.

    Attributes:
        least_srcc: SRCC to the labels, or without labels to PyTorch's scores.
        most_difference: Largest absolute difference to a score of PyTorch's, in score units.
        speed: How many times the latency of another row a row may have.
    """

    least_srcc: float | None = None
    most_difference: float | None = None
    speed: SpeedThreshold | None = None


def failing(rows: Sequence[ReportRow], thresholds: Thresholds) -> list[str]:
    """Which rows fail the thresholds.

    A row that could not be measured, or has no figure to hold against a threshold, fails it: what is not known to be
    good enough must not pass. The reference is held to its SRCC to the labels alone.

    Args:
        rows: Of one report.
        thresholds: What they must keep to.

    Returns:
        A line for each failure, with the row, the figure and the threshold; none where no threshold is given.
    """
    if thresholds == Thresholds():
        return []
    failures = []
    for row in rows:
        name = f"{row.model} {row.precision} on {row.provider or row.device}, batch {row.batch}"
        if row.status != "ok":
            failures.append(f"{name}: {row.status}: {row.reason}")
            continue
        if thresholds.least_srcc is not None:
            failures += _srcc(row, name, thresholds.least_srcc)
        if thresholds.most_difference is not None and row.role != "reference":
            failures += _difference(row, name, thresholds.most_difference)
        if thresholds.speed is not None and row.role != "reference":
            failures += _slower(row, name, thresholds.speed, rows)
    return failures


def _srcc(row: ReportRow, name: str, least: float) -> list[str]:
    """Held against the labels where the run has any (then there is a figure or a word for it), else against PyTorch."""
    labelled = row.srcc is not None or "srcc" in row.words
    if not labelled and row.role == "reference":
        return []
    field, to = ("srcc", "the labels") if labelled else ("srcc_reference", "PyTorch")
    value: float | None = getattr(row, field)
    if value is None:
        return [f"{name}: SRCC to {to} is wanted at {least:g} or more, and there is none: {_word(row, field)}"]
    return [f"{name}: SRCC to {to} is {value:.6f}, below {least:g}"] if value < least else []


def _difference(row: ReportRow, name: str, most: float) -> list[str]:
    if row.max_difference is None:
        why = _word(row, "max_difference")
        return [f"{name}: a difference of at most {most:g} is wanted, and there is none: {why}"]
    if row.max_difference > most:
        return [
            f"{name}: largest difference to PyTorch is {row.max_difference:.3g}, above {most:g} ({row.difference_at})"
        ]
    return []


def _slower(row: ReportRow, name: str, threshold: SpeedThreshold, rows: Sequence[ReportRow]) -> list[str]:
    base = threshold.base(row, rows)
    if base is row:
        return []
    ours, theirs = (each.latency_ms.p50 if each and each.latency_ms else None for each in (row, base))
    if ours is None or theirs is None:
        lacking = name if ours is None else f"{threshold.name} at batch {row.batch}"
        return [
            f"{name}: at most {threshold.ratio:g} times {threshold.name} is wanted, and there is no p50 of {lacking}"
        ]
    if ours > threshold.ratio * theirs:
        return [
            f"{name}: p50 {ours:.3g} ms is {ours / theirs:.2f} times the {theirs:.3g} ms of {threshold.name}, above "
            f"{threshold.ratio:g}"
        ]
    return []


def _word(row: ReportRow, field: str) -> str:
    return row.words.get(field, "it was not scored")
