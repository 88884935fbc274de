"""`--plan`: about how long a run takes, from the arithmetic of each model and a matrix product timed here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from musiq.errors import ImageError, pip_install
from musiq.hardware import available_cpus
from musiq.images.header import read_header
from musiq.scoring.arithmetic import gflop
from musiq.spec import USUAL_SIZE, Spec

from ..machine.peak_rate import product_rate
from .cases import BenchSettings, Case, job_of
from .models import COMPILED, Candidate

SLOWNESS = {"pytorch": 2.2, COMPILED: 2.2, "torchscript": 2.2, "pt2": 2.2}
"""Time beside that of ONNX Runtime in fp32, which comes near the rate of a large matrix product; 1 for other formats. A
processor without units for a precision takes longer than this says."""

OPENING_S = {"pytorch": 5.0, COMPILED: 60.0, "torchscript": 5.0, "pt2": 8.0}
"""Starting a process, importing, opening, compiling; 2 s for other formats."""

DECODE_S = 0.02
"""An image of 1024x768 read, decoded and fitted."""


@cache
def spec_of(candidate: Candidate) -> Spec | None:
    """The Spec that the record or our own checkpoint tells without running anything; None for what tells nothing."""
    if candidate.record is not None:
        return candidate.record.spec
    if candidate.format not in ("pytorch", COMPILED):
        return None
    try:
        from musiq.model.checkpoint import load

        return load(Path(candidate.path), candidate.height, candidate.width, any_size=candidate.any_size).spec
    except Exception:  # without torch, or a broken file: the run says why, a plan just does not know
        return None


def call_s(case: Case, rate: float, size: tuple[int, int] = USUAL_SIZE) -> float | None:
    """Seconds of one call, of a model for any size with images of `size`: as measured where a resumed run has measured
    it, else estimated, None without a Spec."""
    measured = [ms for each in case.successful for ms in each.figures.latencies_ms]
    if measured:
        return median(measured) / 1000
    spec = spec_of(case.candidate)
    if spec is None:
        return None
    spec = spec.at(*size) if spec.any_size else spec
    return case.batch * gflop(spec) / rate * SLOWNESS.get(case.candidate.format, 1.0)


def left_s(
    case: Case,
    settings: BenchSettings,
    images: int,
    rate: float,
    score: bool,
    size: tuple[int, int] = USUAL_SIZE,
) -> float | None:
    """Seconds that the case's remaining rounds take; `score`: it scores all images too. `size` as of `call_s`."""
    call = call_s(case, rate, size)
    if call is None:
        return None
    job = job_of(case, settings, score)
    scoring = math.ceil(images / case.batch) if score else 0

    def warm(scored: int) -> float:  # calls that score warm up too
        return max(job.warmup_seconds, (job.warmup_calls - scored) * call)

    timed = max(job.seconds, job.calls * call) + job.end_to_end_calls * (call + case.batch * DECODE_S)
    rounds = case.rounds(settings) - len(case.outcomes)
    if rounds <= 0:
        return 0.0
    once = OPENING_S.get(case.candidate.format, 2.0) + call + timed
    return rounds * (once + warm(0)) + scoring * call + warm(scoring) - warm(0)


def plan(cases: Sequence[Case], settings: BenchSettings, images: Sequence[Path]) -> list[str]:
    """Lines that say what would be measured and about how long each row and all of it takes."""
    size = middle_size(images)
    rate = product_rate(settings.threads or available_cpus())
    scored = {case.candidate for case in cases if case.scores is not None}
    lines, total, unknown = [], 0.0, list[Case]()
    for case in cases:
        score = case.candidate not in scored
        scored.add(case.candidate)
        seconds = left_s(case, settings, len(images), rate, score, size)
        total += seconds or 0.0
        unknown += [case] if seconds is None else []
        done = len(case.outcomes)
        what = f"{done} of {case.rounds(settings)} rounds done" if done else case.role
        name = f"{case.candidate.path.name} ({case.candidate.format} {case.candidate.precision})"
        estimate = "unknown" if seconds is None else "0 s" if seconds == 0 else f"about {duration(seconds)}"
        lines.append(f"{name:<60} batch {case.batch:<4} {estimate:<14} {what}")
    lines.append(f"{len(cases)} rows, {len(images)} images: about {duration(total)} in all{_besides(unknown)}.")
    lines.append(
        f"Estimated from each model's arithmetic at the {rate:.0f} GFLOP/s of a matrix product on this CPU just now; off "
        "by a factor of two easily. A GPU is faster."
    )
    return lines


def middle_size(images: Sequence[Path]) -> tuple[int, int]:
    """(height, width) of the image with the mean number of pixels, or nearly: a model of any size takes as long for it as
    for one of these, on average. USUAL_SIZE where no header can be read."""
    sizes = []
    for file in images:
        with suppress(OSError, ImageError):
            header = read_header(file.read_bytes())
            sizes.append((header.height, header.width))
    mean = sum(map(math.prod, sizes)) / max(1, len(sizes))
    return min(sizes, key=lambda size: abs(math.prod(size) - mean), default=USUAL_SIZE)


def _besides(unknown: Sequence[Case]) -> str:
    """What the total leaves out, and why."""
    formats = [case.candidate.format for case in unknown]
    unread = 0 if find_spec("torch") else sum(format in ("pytorch", COMPILED) for format in formats)
    parts = [f"{unread} that cannot be read without torch ({pip_install('train')})"] if unread else []
    parts += [f"{len(unknown) - unread} whose size nothing tells"] if len(unknown) > unread else []
    return f", besides {' and '.join(parts)}" if parts else ""


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
