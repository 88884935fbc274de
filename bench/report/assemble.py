"""The report's rows, put together from the cases and what was measured of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from musiq import artifact

from ..plan.cases import BenchSettings, Case
from ..plan.images import ImageSet
from ..plan.job import Opened, Round
from ..plan.models import Candidate
from .latency import Latency, by_size, summarise
from .quality import LabelAgreement, ReferenceAgreement, against_labels, against_reference, without_reference
from .schema import INTERRUPTED, ReportRow

STEADY = 0.01
"""Part of the scores' range by which scores may change with the batch size before a row has a note about it."""


def assemble_rows(
    cases: Sequence[Case], images: ImageSet, labels: Sequence[float] | None, settings: BenchSettings
) -> list[ReportRow]:
    """The report's rows, in the order of the cases.

    What a model keeps of the scores is worked out once and stands in the rows of all its batch sizes.

    Args:
        cases: With the outcomes of their rounds.
        images: The images that were scored.
        labels: Of `images.files`, in their order; None without any.
        settings: How the run measured.
    """
    agreements: dict[Candidate, _Agreement] = {}
    rows = []
    for case in cases:
        row = _row(case, settings)
        scored = _scored(case.candidate, cases)
        if scored is not None and case.successful:
            if case.candidate not in agreements:
                agreements[case.candidate] = _Agreement(scored, _Reference.of(case, cases), labels)
            agreements[case.candidate].put(row, images)
            row.images = len(scored.scores or ())
            _put_batch_difference(row, case, scored)
        rows.append(row)
    return rows


def _scored(candidate: Candidate, cases: Sequence[Case]) -> Case | None:
    return next((case for case in cases if case.candidate == candidate and case.scores is not None), None)


@dataclass(frozen=True)
class _Reference:
    """The case that scored a model's reference, or why there is none."""

    case: Case | None
    lacking: str = ""

    @classmethod
    def of(cls, case: Case, cases: Sequence[Case]) -> _Reference:
        if case.reference is None:
            return cls(None, case.reference_note)
        scored = _scored(case.reference, cases)
        if scored:
            return cls(scored)
        failed = [other.outcomes[-1] for other in cases if other.candidate == case.reference and other.outcomes]
        return cls(None, f"PyTorch did not run ({failed[0].reason})" if failed else "PyTorch has not been run")


class _Agreement:
    """What one model keeps of the scores, for the rows of all its batch sizes; notes on what is doubtful about it."""

    def __init__(self, scored: Case, reference: _Reference, labels: Sequence[float] | None) -> None:
        scores = scored.scores or []
        theirs, lacking = _comparable(scored, reference)
        self.notes = [scored.reference_note] if theirs is not None and scored.reference_note else []
        if theirs is None:
            self.reference = without_reference(lacking)
            self.notes += _recorded(scored.candidate)
        else:
            self.reference = against_reference(scores, theirs)
        self.labels = None if labels is None else against_labels(scores, labels, theirs)

    def put(self, row: ReportRow, images: ImageSet) -> None:
        _put_reference_agreement(row, self.reference, images)
        if self.labels is not None:
            _put_label_agreement(row, self.labels)
        row.notes += self.notes


def _comparable(scored: Case, reference: _Reference) -> tuple[list[float] | None, str]:
    """The reference's scores, or why they are not to be compared with."""
    if reference.case is scored:
        return None, "reference"
    if reference.case is not None and _size(reference.case) != _size(scored):
        return None, "PyTorch ran at another image size"
    return (reference.case.scores, "") if reference.case else (None, reference.lacking)


def _recorded(candidate: Candidate) -> list[str]:
    """Without PyTorch here there still is what the exporter found."""
    check = candidate.record.check if candidate.record else None
    if check is None:
        return []
    srcc = "" if check.srcc is None else f", SRCC {check.srcc:.5f}"
    return [
        f"when exported it differed from PyTorch by at most {check.max_difference:.1e}{srcc} ({check.images} images)"
    ]


def _size(case: Case) -> tuple[int | None, int | None, str]:
    opened = case.successful[0].opened
    return opened.height, opened.width, opened.resize


def _put_reference_agreement(row: ReportRow, found: ReferenceAgreement, images: ImageSet) -> None:
    row.srcc_reference = found.srcc_reference.value
    row.max_difference = found.max_difference.value
    row.mean_difference = found.mean_difference.value
    row.difference_at = None if found.worst is None else str(images.files[found.worst])
    row.words.update(found.reasons())


def _put_label_agreement(row: ReportRow, found: LabelAgreement) -> None:
    row.srcc, row.srcc_interval = found.srcc.value, found.srcc.interval
    row.plcc, row.plcc_interval = found.plcc.value, found.plcc.interval
    row.plcc_fitted, row.plcc_fitted_interval = found.plcc_fitted.value, found.plcc_fitted.interval
    row.krcc, row.krcc_interval = found.krcc.value, found.krcc.interval
    row.rmse, row.rmse_interval = found.rmse.value, found.rmse.interval
    row.srcc_delta, row.srcc_delta_interval = found.srcc_delta.value, found.srcc_delta.interval
    row.words.update(found.reasons())


def _row(case: Case, settings: BenchSettings) -> ReportRow:
    candidate = case.candidate
    row = ReportRow(
        model=case.name,
        path=str(candidate.path),
        sha256=candidate.sha256,
        format=candidate.format,
        role=case.role,
        precision=candidate.precision,
        precision_inside=candidate.inside,
        layers=artifact.layers_in_words(candidate.record) if candidate.record else None,
        build_s=candidate.record.details.build_s if candidate.record else None,
        device=candidate.device,
        batch=case.batch,
        file_mb=candidate.file_mb,
        reference=str(case.reference.path) if case.reference else None,
    )
    _put_status(row, case, settings)
    if case.successful:
        _put_times(row, case.successful, candidate.compiled)
    return row


def _put_status(row: ReportRow, case: Case, settings: BenchSettings) -> None:
    done, wanted = len(case.successful), case.rounds(settings)
    if case.failed:
        last = case.outcomes[-1]
        row.status, row.reason = last.status, last.reason
        if last.opened is not None:
            _put_opened(row, last.opened)
    elif done == 0:
        row.status, row.reason = INTERRUPTED, "the run was stopped before; the same command with --resume goes on"
    if case.candidate.record is not None and case.candidate.record.unverified:
        row.notes.append(f"not checked when it was exported: {case.candidate.record.unverified}")
    if not case.timed:
        row.notes.append("scored as the reference, and not timed (--baseline none)")
    elif done and done < wanted:
        row.notes.append(f"{done} of {wanted} rounds")


def _put_opened(row: ReportRow, opened: Opened) -> None:
    row.provider, row.threads, row.target = opened.provider, opened.threads, opened.target
    row.height, row.width = opened.height, opened.width
    row.any_size, row.resize = opened.height is None, opened.resize or None


def _put_times(row: ReportRow, rounds: Sequence[Round], compiled: bool) -> None:
    figures = [each.figures for each in rounds]
    _put_opened(row, rounds[0].opened)
    row.tf32 = figures[0].tf32
    row.load_s = median(each.opened.load_s for each in rounds)
    cold = [each.cold_start_ms for each in figures]
    # Later rounds find what the first has compiled.
    row.cold_start_ms = cold[0] if compiled else median(cold)
    row.peak_memory_mib = max(
        (each.peak_memory_mib for each in figures if each.peak_memory_mib is not None), default=None
    )
    row.device_memory_mib = max(
        (each.device_memory_mib for each in figures if each.device_memory_mib is not None), default=None
    )
    clocks = [each.gpu_clock_mhz for each in figures if each.gpu_clock_mhz is not None]
    row.gpu_clock_mhz = median(clocks) if clocks else None
    row.latency_ms = summarise([each.latencies_ms for each in figures], row.any_size)
    row.end_to_end_ms = summarise([each.end_to_end_ms for each in figures], row.any_size)
    if row.any_size:
        calls = [call for each in figures for call in zip(each.latencies_ms, each.sizes, strict=True)]
        row.by_size = by_size([ms for ms, _ in calls], [size for _, size in calls])
    row.images_per_s = _images_per_s(row.latency_ms, row.batch)
    row.end_to_end_images_per_s = _images_per_s(row.end_to_end_ms, row.batch)


def _images_per_s(latency: Latency | None, batch: int) -> float | None:
    return 1e3 * batch / latency.mean if latency else None


def _put_batch_difference(row: ReportRow, case: Case, scored: Case) -> None:
    """Timed calls score too: at another batch size, or in another round, they should have found the same scores."""
    scores = np.asarray(scored.scores, np.float64)
    timed = [(int(place), score) for each in case.successful for place, score in each.figures.seen.items()]
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
