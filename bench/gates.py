"""The --fail- options: which rows are not good enough, and by how much."""

from __future__ import annotations

from collections.abc import Sequence

from .report import Row


def offending(rows: Sequence[Row], least_srcc: float | None, most_difference: float | None) -> list[str]:
    """A line for each row that fails a limit; none where no limit is given.

    A row that could not be measured, or has no figure to hold against the limit, fails it: what is not known to be good
    enough must not pass. The reference is held to its SRCC to the labels alone.
    """
    offences = []
    for row in rows:
        name = f"{row.model} {row.precision} on {row.provider or row.device}, batch {row.batch}"
        if row.status != "ok":
            if least_srcc is not None or most_difference is not None:
                offences.append(f"{name}: {row.status}: {row.reason}")
            continue
        if least_srcc is not None:
            offences += _srcc(row, name, least_srcc)
        if most_difference is not None and row.role != "reference":
            offences += _difference(row, name, most_difference)
    return offences


def _srcc(row: Row, name: str, least: float) -> list[str]:
    """Held against the labels where the run has any (then there is a figure or a word for it), else against PyTorch."""
    labelled = row.srcc is not None or "srcc" in row.words
    if not labelled and row.role == "reference":
        return []
    field, to = ("srcc", "the labels") if labelled else ("srcc_reference", "PyTorch")
    value: float | None = getattr(row, field)
    if value is None:
        return [f"{name}: SRCC to {to} is wanted at {least:g} or more, and there is none: {row.words[field]}"]
    return [f"{name}: SRCC to {to} is {value:.6f}, below {least:g}"] if value < least else []


def _difference(row: Row, name: str, most: float) -> list[str]:
    if row.max_difference is None:
        return [f"{name}: a difference of at most {most:g} is wanted, and there is none: {row.words['max_difference']}"]
    if row.max_difference > most:
        return [
            f"{name}: largest difference to PyTorch is {row.max_difference:.3g}, above {most:g} ({row.difference_at})"
        ]
    return []
