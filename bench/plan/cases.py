"""The cases of a run: how it measures (`BenchSettings`), and a `Case` for each model at each batch size and device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from musiq.errors import MusiqError
from musiq.hardware import cuda_index
from musiq.runtimes.base import check_device

from .job import Job, Outcome, Round
from .models import COMPILED, Candidate, describe, reference_of, short_names

BASELINES = ("eager", "eager:fp16", "eager:bf16", "compile", "compile:fp16", "compile:bf16", "none")


@dataclass(frozen=True)
class BenchSettings:
    """How a run measures. `calls` and `seconds` are each row's least, over all rounds together."""

    devices: tuple[str, ...] = ("auto",)
    threads: int | None = None
    batches: tuple[int, ...] = (1,)
    calls: int = 100
    seconds: float = 3.0
    rounds: int = 3
    warmup_calls: int = 10
    warmup_seconds: float = 1.0
    timeout_s: float = 3600.0


@dataclass
class Case:
    """One model at one batch size, and the outcomes of its rounds so far.

    Attributes:
        name: The model's name in tables.
        candidate: The file, and where and how it runs.
        batch: Images in a call.
        role: "reference", "baseline" or "candidate", see `report.schema.ReportRow`.
        reference: The checkpoint whose scores its own are compared with.
        reference_note: What is doubtful about the reference, or why there is none.
        timed: False for a reference that is run for its scores alone.
        outcomes: One for each round.
    """

    name: str
    candidate: Candidate
    batch: int
    role: str
    reference: Candidate | None = None
    reference_note: str = ""
    timed: bool = True
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.outcomes) and self.outcomes[-1].status != "ok"

    @property
    def successful(self) -> list[Round]:
        """The rounds that were finished."""
        return [
            Round(each.opened, each.figures)
            for each in self.outcomes
            if each.status == "ok" and each.opened is not None and each.figures is not None
        ]

    @property
    def scores(self) -> list[float] | None:
        """Scores of all images, if it was this case that gave its model's."""
        return next((each.figures.scores for each in self.successful if each.figures.scores), None)

    def rounds(self, settings: BenchSettings) -> int:
        return settings.rounds if self.timed else 1


def plan_cases(
    models: Sequence[Candidate], checkpoint: Path | None, settings: BenchSettings, baselines: Sequence[str] = ()
) -> list[Case]:
    """The cases of a run, in the order of the report's rows.

    On each device the references come first, then other ways of PyTorch, then the artifacts, each at every batch size. Of
    several devices each artifact goes where its kind can run; PyTorch runs on their plain GPUs.

    Args:
        models: The files to measure.
        checkpoint: The reference to use; None for what each artifact's record names, if that is found.
        settings: How the run measures.
        baselines: Of BASELINES. With "none" the references of artifacts are scored and not timed; with "compile" each
            reference is there compiled as well, with "eager:fp16" in that precision. A checkpoint that is one of the
            `models` is timed whatever the baselines.

    Returns:
        The cases, without outcomes.
    """
    chosen = describe(checkpoint) if checkpoint else None
    artifacts = [model for model in models if model.format != "pytorch"]
    found = {each: reference_of(each, chosen) for each in artifacts}
    references = _references([reference for reference, _ in found.values() if reference], chosen, models)
    names = short_names([*references, *artifacts])
    untimed = set(references) - _with_content_of(models, references) if "none" in baselines else set()
    cases: list[Case] = []
    for device in settings.devices:
        plain = plain_device(device)
        if not any(case.candidate.device == plain for case in cases):
            for each in references:
                placed = replace(each, device=plain)
                cases += _at_batches(
                    Case(names[each], placed, 1, "reference", placed, timed=each not in untimed), settings
                )
            for each in references:
                cases += _baselines(names[each], replace(each, device=plain), settings, baselines)
        for each, (reference, note) in found.items():
            if len(settings.devices) == 1 or may_run(each, device):
                placed_reference = replace(reference, device=plain) if reference else None
                case = Case(names[each], replace(each, device=device), 1, "candidate", placed_reference, note)
                cases += _at_batches(case, settings)
    return cases


def _references(found: Sequence[Candidate], chosen: Candidate | None, models: Sequence[Candidate]) -> list[Candidate]:
    """The references of artifacts, and the checkpoints asked for that are none of these."""
    references = list(dict.fromkeys(found))
    known = {reference.sha256 for reference in references}
    asked = dict.fromkeys(model for model in (*([chosen] if chosen else []), *models) if model.format == "pytorch")
    return references + [model for model in asked if model.sha256 not in known]


def _with_content_of(models: Sequence[Candidate], references: Sequence[Candidate]) -> set[Candidate]:
    """Those of `references` that are among `models` themselves, under whatever name."""
    asked = {model.sha256 for model in models if model.format == "pytorch"}
    return {reference for reference in references if reference.sha256 in asked}


def _baselines(name: str, reference: Candidate, settings: BenchSettings, baselines: Sequence[str]) -> Iterator[Case]:
    """The reference as the other baselines run it, "compile:fp16" for one."""
    for baseline in baselines:
        if baseline not in ("eager", "none"):
            way, _, cast = baseline.partition(":")
            format = COMPILED if way == "compile" else reference.format
            other = replace(reference, format=format, cast=cast or "fp32")
            yield from _at_batches(Case(name, other, 1, "baseline", reference), settings)


def _at_batches(case: Case, settings: BenchSettings) -> Iterator[Case]:
    """The case at each batch size; a file for one batch size at that alone, since at others it pads or is called often."""
    batches = settings.batches if case.timed else settings.batches[:1]
    if (fixed := fixed_batch(case.candidate)) in batches:
        batches = (fixed,)
    for batch in batches:
        yield replace(case, batch=batch, outcomes=[])


def plain_device(device: str) -> str:
    """Where PyTorch runs beside artifacts on `device`: on the same GPU, in no special way."""
    return device if device in ("auto", "cpu") else f"cuda:{cuda_index(device)}"


def may_run(candidate: Candidate, device: str) -> bool:
    """Whether files of this kind run on `device`: of several, each artifact is measured where it can run."""
    try:
        check_device(device, candidate.path)
    except MusiqError:
        return False
    return not device.startswith("cuda-graph") or fixed_batch(candidate) > 0


def fixed_batch(candidate: Candidate) -> int:
    """The one batch size that an artifact was exported for; 0 where it takes several."""
    first, last = candidate.record.batch if candidate.record else (0, 0)
    return first if first == last else 0


def check_baselines(baselines: Sequence[str], cases: Sequence[Case]) -> None:
    """Raise MusiqError for baselines that exclude each other or that no checkpoint is there for."""
    if {"none", "eager"} <= set(baselines):
        raise MusiqError("--baseline none and --baseline eager exclude each other; leave one out.")
    wanted = [baseline for baseline in baselines if baseline != "none"]
    if wanted and not any(case.role == "reference" for case in cases):
        notes = [f" ({case.candidate.path.name}: {case.reference_note})" for case in cases if case.reference_note]
        raise MusiqError(
            f"--baseline {wanted[0]} needs a checkpoint, and none is known{notes[0] if notes else ''}. Give it with "
            "--checkpoint FILE."
        )


def job_of(case: Case, settings: BenchSettings, score: bool, cache: str | None = None) -> Job:
    """One round of a case: its share of the calls and seconds, and whether it scores all images too."""
    calls = math.ceil(settings.calls / settings.rounds) if case.timed else 0
    return Job(
        path=str(case.candidate.path.absolute()),
        device=case.candidate.device,
        batch=case.batch,
        calls=calls,
        seconds=settings.seconds / settings.rounds if case.timed else 0.0,
        warmup_calls=settings.warmup_calls if case.timed else 0,
        warmup_seconds=settings.warmup_seconds if case.timed else 0.0,
        end_to_end_calls=min(calls, max(4, calls // 5)),  # it takes longer, and its decoding is the same for all
        threads=settings.threads,
        height=case.candidate.height,
        width=case.candidate.width,
        any_size=case.candidate.any_size,
        resize=case.candidate.resize,
        score=score,
        compiled=case.candidate.format == COMPILED,
        cache=cache,
        precision=case.candidate.cast,
    )
