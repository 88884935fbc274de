"""The records of a folder as one table: what each artifact is, how it agrees, what is inside."""

from __future__ import annotations

from pathlib import Path

from musiq import artifact, markdown
from musiq.artifact import Record
from musiq.errors import MusiqError
from musiq.file_formats import ending_of

from .check.compare import score_span

HEADINGS = ("artifact", "format", "precision", "MB", "largest difference", "% of range", "SRCC", "n", "layers", "built")


def table(folder: Path) -> str:
    """A Markdown table of the artifacts in `folder`, from their records. Raises MusiqError if there are none."""
    if not folder.is_dir():
        raise MusiqError(f"There is no folder {folder}. Give the --out folder of an export.")
    rows = [
        _row(path, str(path.relative_to(folder)), record)
        for path in sorted(folder.rglob("*"))
        if _is_artifact(path.relative_to(folder)) and (record := artifact.read_record(path))
    ]
    for path in sorted(folder.rglob(f"*{artifact.REFUSED}")):
        missing = path.with_name(path.name.removesuffix(artifact.REFUSED))
        if refusal := artifact.read_refusal(missing):
            cells = (str(missing.relative_to(folder)), "", refusal.precision, "", f"refused: {refusal.reason}")
            rows.append((*cells, *[""] * (len(HEADINGS) - len(cells))))
    if not rows:
        raise MusiqError(f"There is no artifact with a record in {folder}. Give the --out folder of an export.")
    return markdown.table(HEADINGS, rows)


def _row(path: Path, name: str, record: Record) -> tuple[str, ...]:
    size = sum(file.stat().st_size for file in (path, *(path.with_suffix(ending) for ending in record.files)))
    return (
        name,
        record.format,
        record.precision,
        f"{size / 1e6:.1f}",
        *_agreement(record),
        artifact.layers_in_words(record),
        f"{'?' if record.details.build_s is None else record.details.build_s} s",
    )


def _agreement(record: Record) -> tuple[str, str, str, str]:
    check = record.check
    if check is None:
        return f"unverified: {record.unverified}", "", "", ""
    span = score_span(record.spec, None)
    share = f"{100 * check.max_difference / span:.4f}" if span else "range unknown"
    srcc = "undefined" if check.srcc is None else f"{check.srcc:.5f}"
    return f"{check.max_difference:.2g}", share, srcc, str(check.images)


def _is_artifact(path: Path) -> bool:
    """Of a kind that a runtime opens, and not in the folder of an export that is under way."""
    return ending_of(path) is not None and not any(part.startswith(".") for part in path.parts)
