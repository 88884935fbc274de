"""From what was measured to the rows of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from musiq import artifact

from ..plan.cases import Cell, Settings
from ..plan.images import ImageSet
from ..plan.models import Candidate
from .latency import Latency, summarise
from .quality import Quality, against_labels, against_reference
from .schema import INTERRUPTED, Row

Found = tuple[Cell | None, str]  # the cell that scored a reference, or why there is none

STEADY = 0.01
"""Part of the scores' spread by which scores may change with the batch size before a row says so."""


def rows(cells: Sequence[Cell], images: ImageSet, labels: Sequence[float] | None, settings: Settings) -> list[Row]:
    """The report's rows, in the order of the cells. `labels` are in the order of `images.files`.

    What a model keeps of the scores is worked out once and stands in the rows of all its batch sizes.
    """
    qualities: dict[Candidate, Quality] = {}
    made = []
    for cell in cells:
        row = _row(cell, settings)
        scored = _scored(cell.candidate, cells)
        if scored is not None and cell.sound:
            if cell.candidate not in qualities:
                qualities[cell.candidate] = _quality(scored, _reference(cell, cells), images, labels)
            _put(row, qualities[cell.candidate])
            row.images = len(scored.scores or ())
            _put_batch_difference(row, cell, scored)
        made.append(row)
    return made


def _scored(candidate: Candidate, cells: Sequence[Cell]) -> Cell | None:
    return next((cell for cell in cells if cell.candidate == candidate and cell.scores is not None), None)


def _reference(cell: Cell, cells: Sequence[Cell]) -> Found:
    """The cell that scored this one's reference, or why there is none."""
    if cell.reference is None:
        return None, cell.doubt
    scored = _scored(cell.reference, cells)
    if scored:
        return scored, ""
    failed = [o.outcomes[-1] for o in cells if o.candidate == cell.reference and o.outcomes]
    return None, f"PyTorch did not run ({failed[0].reason})" if failed else "PyTorch has not been run"


def _row(cell: Cell, settings: Settings) -> Row:
    candidate = cell.candidate
    row = Row(
        model=cell.name,
        path=str(candidate.path),
        sha256=candidate.sha256,
        format=candidate.format,
        role=cell.role,
        precision=candidate.precision,
        precision_inside=candidate.inside,
        layers=artifact.layers_in_words(candidate.record) if candidate.record else None,
        build_s=candidate.record.details.get("build_s") if candidate.record else None,
        device=candidate.device,
        batch=cell.batch,
        file_mb=candidate.file_mb,
        reference=str(cell.reference.path) if cell.reference else None,
    )
    _put_status(row, cell, settings)
    _put_times(row, [outcome.figures for outcome in cell.sound], candidate.compiled)
    return row


def _put_status(row: Row, cell: Cell, settings: Settings) -> None:
    done, wanted = len(cell.sound), cell.rounds(settings)
    if cell.broken:
        last = cell.outcomes[-1]
        row.status, row.reason = last.status, last.reason
        for name in ("provider", "height", "width", "target", "threads"):
            setattr(row, name, last.figures.get(name))
    elif done == 0:
        row.status, row.reason = INTERRUPTED, "the run was stopped before; the same command with --resume goes on"
    if cell.candidate.record is not None and cell.candidate.record.unverified:
        row.notes.append(f"not checked when it was exported: {cell.candidate.record.unverified}")
    if not cell.timed:
        row.notes.append("scored as the reference, and not timed (--baseline none)")
    elif done and done < wanted:
        row.notes.append(f"{done} of {wanted} rounds")


def _put_times(row: Row, rounds: Sequence[dict[str, Any]], compiled: bool) -> None:
    if not rounds:
        return
    for name in ("provider", "height", "width", "target", "tf32", "threads"):
        setattr(row, name, rounds[0][name])
    row.load_s = median(figures["load_s"] for figures in rounds)
    cold = [figures["cold_start_ms"] for figures in rounds]
    # Later rounds find what the first has compiled.
    row.cold_start_ms = cold[0] if compiled else median(cold)
    for name in ("peak_memory_mib", "device_memory_mib"):
        setattr(row, name, max((f[name] for f in rounds if f[name] is not None), default=None))
    clocks = [figures["gpu_clock_mhz"] for figures in rounds if figures["gpu_clock_mhz"] is not None]
    row.gpu_clock_mhz = median(clocks) if clocks else None
    row.latency_ms = summarise([figures["latencies_ms"] for figures in rounds])
    row.end_to_end_ms = summarise([figures["end_to_end_ms"] for figures in rounds])
    row.images_per_s = _images_per_s(row.latency_ms, row.batch)
    row.end_to_end_images_per_s = _images_per_s(row.end_to_end_ms, row.batch)


def _images_per_s(latency: Latency | None, batch: int) -> float | None:
    return 1e3 * batch / latency.mean if latency else None


def _quality(scored: Cell, found: Found, images: ImageSet, labels: Sequence[float] | None) -> Quality:
    """How one model's scores agree with the reference's and with the labels; notes on what is doubtful about it."""
    reference, why = found
    scores, other = scored.scores or [], reference.scores if reference else None
    quality = Quality()
    if reference is scored:
        why, other = "reference", None
    elif reference is not None and _size(reference) != _size(scored):
        why, other = "PyTorch ran at another image size", None
    elif scored.doubt and reference is not None:
        quality.notes.append(scored.doubt)
    if other is not None:
        quality.add(against_reference(scores, other))
        at = quality.figures["difference_at"]
        quality.figures["difference_at"] = None if at is None else str(images.files[at])
    else:
        quality.words.update(dict.fromkeys(("srcc_reference", "max_difference", "mean_difference"), why))
        quality.notes += _recorded(scored.candidate)
    if labels is not None:
        quality.add(against_labels(scores, labels, other))
    return quality


def _recorded(candidate: Candidate) -> list[str]:
    """Without PyTorch here there still is what the exporter found."""
    check = candidate.record.check if candidate.record else None
    if check is None:
        return []
    srcc = "" if check.srcc is None else f", SRCC {check.srcc:.5f}"
    return [
        f"when exported it differed from PyTorch by at most {check.max_difference:.1e}{srcc} ({check.images} images)"
    ]


def _size(cell: Cell) -> tuple[int, int]:
    figures = cell.sound[0].figures
    return figures["height"], figures["width"]


def _put(row: Row, quality: Quality) -> None:
    for name, value in quality.figures.items():
        setattr(row, name, value)
    row.words.update(quality.words)
    row.notes += quality.notes


def _put_batch_difference(row: Row, cell: Cell, scored: Cell) -> None:
    """Timed calls score too: at another batch size, or in another round, they should have found the same scores."""
    scores = np.asarray(scored.scores, np.float64)
    timed = [(int(place), score) for outcome in cell.sound for place, score in outcome.figures["seen"].items()]
    if not timed:
        return
    places, again = np.array([place for place, _ in timed]), np.array([score for _, score in timed], np.float64)
    differences = np.abs(again - scores[places])
    largest = float(differences.max())
    if math.isfinite(largest):
        row.batch_difference = largest
    elif np.isfinite(scores[places]).all():
        row.words["batch_difference"] = "a score of a timed call is not a number"
        row.notes.append(f"scores that are not numbers while timed, and numbers at batch {scored.batch}")
    if math.isfinite(largest) and largest > max(STEADY * float(np.ptp(scores)), 1e-5 * float(np.abs(scores).max())):
        row.notes.append(f"scores while timed differ by up to {largest:.2g} from those at batch {scored.batch}")
