"""The --fail- options: which rows are not good enough, and by how much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from musiq.errors import MusiqError

from ..plan.cases import Cell
from ..report.schema import Row

BASELINE = "baseline"


@dataclass(frozen=True)
class Slower:
    """--fail-slower-than NAME:RATIO: a row's p50 over that of `name` at the same batch size is at most `ratio`.

    `name` is "baseline" (each row's own PyTorch, eager), a model's name as the table has it, or its file's name.
    """

    name: str
    ratio: float

    @classmethod
    def parse(cls, text: str) -> Slower:
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

    def check(self, cells: Sequence[Cell]) -> None:
        """Raise MusiqError, before anything is measured, where the name means no row, or several."""
        named = {
            cell.candidate for cell in cells if self.name in (cell.name, cell.candidate.path.name) and _plain(cell)
        }
        if self.name == BASELINE:
            if not any(cell.role == "reference" and cell.timed for cell in cells):
                raise MusiqError(
                    "--fail-slower-than baseline needs PyTorch timed in this run: give --checkpoint FILE, and no "
                    "--baseline none."
                )
        elif len(named) != 1:
            there = ", ".join(sorted({cell.candidate.path.name for cell in cells}))
            many = "means several models" if named else "is no model of this run"
            raise MusiqError(f"--fail-slower-than: {self.name!r} {many}; name one by its file: {BASELINE}, {there}.")

    def base(self, row: Row, rows: Sequence[Row]) -> Row | None:
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


def _plain(cell: Cell) -> bool:
    """Not the compiled one, which shares its file with the eager one."""
    return cell.role != "baseline"


def _same_model(reference: Row, row: Row) -> bool:
    return reference.path == row.reference and (reference.height, reference.width) == (row.height, row.width)


@dataclass(frozen=True)
class Limits:
    """What the --fail- options ask for; None for one that is not given."""

    least_srcc: float | None = None
    most_difference: float | None = None
    slower: Slower | None = None


def offending(rows: Sequence[Row], limits: Limits) -> list[str]:
    """A line for each row that fails a limit; none where no limit is given.

    A row that could not be measured, or has no figure to hold against the limit, fails it: what is not known to be good
    enough must not pass. The reference is held to its SRCC to the labels alone.
    """
    if limits == Limits():
        return []
    offences = []
    for row in rows:
        name = f"{row.model} {row.precision} on {row.provider or row.device}, batch {row.batch}"
        if row.status != "ok":
            offences.append(f"{name}: {row.status}: {row.reason}")
            continue
        if limits.least_srcc is not None:
            offences += _srcc(row, name, limits.least_srcc)
        if limits.most_difference is not None and row.role != "reference":
            offences += _difference(row, name, limits.most_difference)
        if limits.slower is not None and row.role != "reference":
            offences += _slower(row, name, limits.slower, rows)
    return offences


def _srcc(row: Row, name: str, least: float) -> list[str]:
    """Held against the labels where the run has any (then there is a figure or a word for it), else against PyTorch."""
    labelled = row.srcc is not None or "srcc" in row.words
    if not labelled and row.role == "reference":
        return []
    field, to = ("srcc", "the labels") if labelled else ("srcc_reference", "PyTorch")
    value: float | None = getattr(row, field)
    if value is None:
        return [f"{name}: SRCC to {to} is wanted at {least:g} or more, and there is none: {_word(row, field)}"]
    return [f"{name}: SRCC to {to} is {value:.6f}, below {least:g}"] if value < least else []


def _difference(row: Row, name: str, most: float) -> list[str]:
    if row.max_difference is None:
        why = _word(row, "max_difference")
        return [f"{name}: a difference of at most {most:g} is wanted, and there is none: {why}"]
    if row.max_difference > most:
        return [
            f"{name}: largest difference to PyTorch is {row.max_difference:.3g}, above {most:g} ({row.difference_at})"
        ]
    return []


def _slower(row: Row, name: str, limit: Slower, rows: Sequence[Row]) -> list[str]:
    base = limit.base(row, rows)
    if base is row:
        return []
    ours, theirs = (each.latency_ms.p50 if each and each.latency_ms else None for each in (row, base))
    if ours is None or theirs is None:
        lacking = name if ours is None else f"{limit.name} at batch {row.batch}"
        return [f"{name}: at most {limit.ratio:g} times {limit.name} is wanted, and there is no p50 of {lacking}"]
    if ours > limit.ratio * theirs:
        return [
            f"{name}: p50 {ours:.3g} ms is {ours / theirs:.2f} times the {theirs:.3g} ms of {limit.name}, above "
            f"{limit.ratio:g}"
        ]
    return []


def _word(row: Row, field: str) -> str:
    return row.words.get(field, "it was not scored")
