"""The run: every model at every batch size in rounds, one fresh process at a time, and the rows that come of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from .candidates import Candidate
from .figures import Latency, summarise
from .pictures import Pictures
from .process import Job, Message, Outcome, measure
from .quality import Quality, against_labels, against_reference
from .report import Row

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How a run measures. `calls` and `seconds` are each row's least, over all rounds together."""

    device: str = "auto"
    threads: int | None = None
    batches: tuple[int, ...] = (1,)
    calls: int = 100
    seconds: float = 3.0
    rounds: int = 3
    warmup_calls: int = 10
    warmup_seconds: float = 1.0
    timeout_s: float = 3600.0


@dataclass
class Cell:
    """One model at one batch size, and what its rounds have given so far."""

    name: str
    candidate: Candidate
    batch: int
    role: str
    reference: Candidate | None = None
    doubt: str = ""  # about the reference, or why there is none
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        return bool(self.outcomes) and self.outcomes[-1].status != "ok"

    @property
    def scores(self) -> list[float] | None:
        """Scores of all pictures, from the first round."""
        return self.outcomes[0].figures.get("scores") if self.outcomes and self.outcomes[0].status == "ok" else None


def run_rounds(cells: Sequence[Cell], pictures: Pictures, settings: Settings, progress: Progress) -> bool:
    """Fill the cells, round by round; True if Ctrl-C ended it early. A cell that failed is not tried again.

    Rounds, so that a machine that warms up or gets busy slows all rows alike and not the last ones.
    """
    try:
        for turn in range(settings.rounds):
            for cell in cells:
                if not cell.broken:
                    cell.outcomes.append(_measure(cell, turn, pictures, settings, progress))
                progress("")
    except KeyboardInterrupt:
        return True
    return False


def _measure(cell: Cell, turn: int, pictures: Pictures, settings: Settings, progress: Progress) -> Outcome:
    name = f"{cell.candidate.path.name} batch {cell.batch}, round {turn + 1}"
    progress(f"{name}: opening")

    def feed(opened: Message) -> Message:
        raw = pictures.decoded(
            opened["height"], opened["width"], lambda done, of: progress(f"decoding pictures {done}/{of}")
        )
        return {"raw": str(raw), "files": [str(file.absolute()) for file in pictures.files]}

    def heard(message: Message) -> None:
        progress(f"{name}: {message['doing']} {message['done']}/{message['of']}")

    return measure(_job(cell, settings, first=turn == 0), feed, heard, settings.timeout_s)


def _job(cell: Cell, settings: Settings, first: bool) -> Job:
    calls = math.ceil(settings.calls / settings.rounds)
    return Job(
        path=str(cell.candidate.path.absolute()),
        device=settings.device,
        batch=cell.batch,
        calls=calls,
        seconds=settings.seconds / settings.rounds,
        warmup_calls=settings.warmup_calls,
        warmup_seconds=settings.warmup_seconds,
        end_to_end_calls=min(calls, max(4, calls // 5)),  # it takes longer, and its decoding is the same for all
        threads=settings.threads,
        height=cell.candidate.height,
        width=cell.candidate.width,
        score=first,
    )


def rows(cells: Sequence[Cell], pictures: Pictures, labels: Sequence[float] | None, settings: Settings) -> list[Row]:
    """The report's rows, in the order of the cells. `labels` are in the order of `pictures.files`."""
    return [_row(cell, _reference_scores(cell, cells), pictures, labels, settings) for cell in cells]


def _reference_scores(cell: Cell, cells: Sequence[Cell]) -> tuple[Cell | None, str]:
    """The first cell that scored this one's reference, or why there is none."""
    if cell.reference is None:
        return None, cell.doubt
    same = [other for other in cells if other.role == "reference" and other.candidate == cell.reference]
    scored = [other for other in same if other.scores is not None]
    if scored:
        return scored[0], ""
    failed = [other.outcomes[-1] for other in same if other.outcomes]
    return None, f"PyTorch did not run ({failed[0].reason})" if failed else "PyTorch has not been run"


def _row(
    cell: Cell, found: tuple[Cell | None, str], pictures: Pictures, labels: Sequence[float] | None, settings: Settings
) -> Row:
    candidate = cell.candidate
    row = Row(
        model=cell.name,
        path=str(candidate.path),
        sha256=candidate.sha256,
        format=candidate.format,
        role=cell.role,
        precision=candidate.precision,
        device=settings.device,
        batch=cell.batch,
        threads=settings.threads,
        file_mb=candidate.path.stat().st_size / 1e6 if candidate.path.exists() else None,
        reference=str(cell.reference.path) if cell.reference else None,
    )
    _put_status(row, cell, settings)
    _put_times(row, [outcome.figures for outcome in cell.outcomes if outcome.status == "ok"])
    if cell.scores is not None:
        _put_quality(row, cell, found, pictures, labels)
    return row


def _put_status(row: Row, cell: Cell, settings: Settings) -> None:
    done = sum(outcome.status == "ok" for outcome in cell.outcomes)
    if cell.broken:
        last = cell.outcomes[-1]
        row.status, row.reason = last.status, last.reason
        for name in ("provider", "height", "width", "target"):
            setattr(row, name, last.figures.get(name))
    elif done == 0:
        row.status, row.reason = "interrupted", "not measured before the run was stopped"
    if cell.candidate.record is not None and cell.candidate.record.unverified:
        row.notes.append(f"not checked when it was exported: {cell.candidate.record.unverified}")
    if done and done < settings.rounds:
        row.notes.append(f"{done} of {settings.rounds} rounds")


def _put_times(row: Row, rounds: Sequence[dict[str, Any]]) -> None:
    if not rounds:
        return
    for name in ("provider", "height", "width", "target", "tf32"):
        setattr(row, name, rounds[0][name])
    row.load_s = median(figures["load_s"] for figures in rounds)
    row.cold_start_ms = median(figures["cold_start_ms"] for figures in rounds)
    row.peak_memory_mib = max((figures["peak_memory_mib"] or 0 for figures in rounds), default=0) or None
    taken = [figures["device_memory_mib"] for figures in rounds if figures["device_memory_mib"] is not None]
    row.device_memory_mib = max(taken, default=None)
    row.latency_ms = summarise([figures["latencies_ms"] for figures in rounds])
    row.end_to_end_ms = summarise([figures["end_to_end_ms"] for figures in rounds])
    row.images_per_s = _images_per_s(row.latency_ms, row.batch)
    row.end_to_end_images_per_s = _images_per_s(row.end_to_end_ms, row.batch)


def _images_per_s(latency: Latency | None, batch: int) -> float | None:
    return 1e3 * batch / latency.mean if latency else None


def _put_quality(
    row: Row, cell: Cell, found: tuple[Cell | None, str], pictures: Pictures, labels: Sequence[float] | None
) -> None:
    reference, why = found
    scores, other = cell.scores or [], reference.scores if reference else None
    row.pictures = len(scores)
    if reference is cell:
        why, other = "reference", None
    elif reference is not None and _size(reference) != _size(cell):
        why, other = "PyTorch ran at another picture size", None
    elif cell.doubt and reference is not None:
        row.notes.append(cell.doubt)
    if other is not None:
        quality = against_reference(scores, other)
        at = quality.figures.pop("difference_at")
        row.difference_at = None if at is None else str(pictures.files[at])
        _put(row, quality)
    else:
        row.words.update(dict.fromkeys(("srcc_reference", "max_difference", "mean_difference"), why))
        _note_recorded(row, cell.candidate)
    if labels is not None:
        _put(row, against_labels(scores, labels, other))


def _note_recorded(row: Row, candidate: Candidate) -> None:
    """Without PyTorch here there still is what the exporter found."""
    check = candidate.record.check if candidate.record else None
    if check is not None:
        srcc = "" if check.srcc is None else f", SRCC {check.srcc:.5f}"
        row.notes.append(
            f"when exported it differed from PyTorch by at most {check.max_difference:.1e}{srcc} ({check.images} pictures)"
        )


def _size(cell: Cell) -> tuple[int, int]:
    figures = cell.outcomes[0].figures
    return figures["height"], figures["width"]


def _put(row: Row, quality: Quality) -> None:
    for name, value in quality.figures.items():
        setattr(row, name, value)
    row.words.update(quality.words)
