"""What a run is made of: how it measures (`Settings`), and one `Cell` for each model at each batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from musiq.errors import MusiqError
from musiq.hardware import cuda_index
from musiq.runtimes.base import check_device

from .models import COMPILED, Candidate, describe, reference_of, short_names

BASELINES = ("eager", "eager:fp16", "eager:bf16", "compile", "compile:fp16", "compile:bf16", "none")


@dataclass(frozen=True)
class Settings:
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
class Cell:
    """One model at one batch size, and what its rounds have given so far. `timed` is False for a reference that is
    run for its scores alone."""

    name: str
    candidate: Candidate
    batch: int
    role: str
    reference: Candidate | None = None
    doubt: str = ""  # about the reference, or why there is none
    timed: bool = True
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        return bool(self.outcomes) and self.outcomes[-1].status != "ok"

    @property
    def sound(self) -> list[Outcome]:
        """The rounds that were finished."""
        return [outcome for outcome in self.outcomes if outcome.status == "ok"]

    @property
    def scores(self) -> list[float] | None:
        """Scores of all images, if it was this cell that gave its model's."""
        return next((outcome.figures["scores"] for outcome in self.sound if outcome.figures.get("scores")), None)

    def rounds(self, settings: Settings) -> int:
        return settings.rounds if self.timed else 1


def lay_out(
    models: Sequence[Candidate], checkpoint: Path | None, settings: Settings, baselines: Sequence[str] = ()
) -> list[Cell]:
    """The rows to measure: on each device the references first, then other ways of PyTorch, then the artifacts, each at
    every batch size.

    With "none" among `baselines` the references of artifacts are scored and not timed, with "compile" each reference is
    there compiled as well, with "eager:fp16" in that precision; a checkpoint that is one of the `models` is timed whatever
    the baselines. Of several devices each artifact goes where its kind can run; PyTorch runs on their plain GPUs.
    """
    chosen = describe(checkpoint) if checkpoint else None
    artifacts = [model for model in models if model.format != "pytorch"]
    settled = {artifact: reference_of(artifact, chosen) for artifact in artifacts}
    references = list(dict.fromkeys(reference for reference, _ in settled.values() if reference))
    asked = {model.sha256 for model in models if model.format == "pytorch"}
    alone = [model for model in [*([chosen] if chosen else []), *models] if model.format == "pytorch"]
    known = {reference.sha256 for reference in references}
    references += [model for model in dict.fromkeys(alone) if model.sha256 not in known]
    names = short_names([*references, *artifacts])
    cells: list[Cell] = []

    def lay(
        name: str, it: Candidate, role: str, reference: Candidate | None, doubt: str = "", timed: bool = True
    ) -> None:
        batches = settings.batches if timed else settings.batches[:1]
        if (fixed := fixed_batch(it)) in batches:  # at others it pads, or calls several times
            batches = (fixed,)
        for batch in batches:
            cells.append(Cell(name, it, batch, role, reference, doubt, timed))

    for device in settings.devices:
        plain = plain_device(device)
        if not any(cell.candidate.device == plain for cell in cells):
            placed = [(names[it], replace(it, device=plain)) for it in references]
            for name, it in placed:
                lay(name, it, "reference", it, timed="none" not in baselines or it.sha256 in asked)
            for name, it in placed:
                for how in (how for how in baselines if how not in ("eager", "none")):
                    way, _, cast = how.partition(":")
                    other = replace(it, format=COMPILED if way == "compile" else it.format, cast=cast or "fp32")
                    lay(name, other, "baseline", it)
        for it, (found, doubt) in settled.items():
            if len(settings.devices) == 1 or may_run(it, device):
                reference = replace(found, device=plain) if found else None
                lay(names[it], replace(it, device=device), "candidate", reference, doubt)
    return cells


def plain_device(device: str) -> str:
    """Where PyTorch runs beside artifacts on `device`: on the same GPU, in no special way."""
    return device if device in ("auto", "cpu") else f"cuda:{cuda_index(device)}"


def may_run(it: Candidate, device: str) -> bool:
    """Whether files of this kind run on `device`: of several, each artifact is measured where it can run."""
    try:
        check_device(device, it.path)
    except MusiqError:
        return False
    return not device.startswith("cuda-graph") or fixed_batch(it) > 0


def fixed_batch(it: Candidate) -> int:
    """The one batch size that an artifact was exported for; 0 where it takes several."""
    first, last = it.record.batch if it.record else (0, 0)
    return first if first == last else 0


def check_baselines(baselines: Sequence[str], cells: Sequence[Cell]) -> None:
    """Raise MusiqError for baselines that exclude each other or that no checkpoint is there for."""
    if {"none", "eager"} <= set(baselines):
        raise MusiqError("--baseline none and --baseline eager exclude each other; leave one out.")
    wanted = [baseline for baseline in baselines if baseline != "none"]
    if wanted and not any(cell.role == "reference" for cell in cells):
        why = next((f" ({cell.candidate.path.name}: {cell.doubt})" for cell in cells if cell.doubt), "")
        raise MusiqError(
            f"--baseline {wanted[0]} needs a checkpoint, and none is known{why}. Give it with --checkpoint FILE."
        )


def job_of(cell: Cell, settings: Settings, score: bool, cache: str | None = None) -> Job:
    """One round of a cell: its share of the calls and seconds, and whether it scores all images too."""
    calls = math.ceil(settings.calls / settings.rounds) if cell.timed else 0
    return Job(
        path=str(cell.candidate.path.absolute()),
        device=cell.candidate.device,
        batch=cell.batch,
        calls=calls,
        seconds=settings.seconds / settings.rounds if cell.timed else 0.0,
        warmup_calls=settings.warmup_calls if cell.timed else 0,
        warmup_seconds=settings.warmup_seconds if cell.timed else 0.0,
        end_to_end_calls=min(calls, max(4, calls // 5)),  # it takes longer, and its decoding is the same for all
        threads=settings.threads,
        height=cell.candidate.height,
        width=cell.candidate.width,
        score=score,
        compiled=cell.candidate.format == COMPILED,
        cache=cache,
        precision=cell.candidate.cast,
    )


Message = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What one child is to measure. `height` and `width`: the image size where the file itself allows any.
    `compiled`: a checkpoint goes through torch.compile; `cache`: the folder for what PyTorch's compiler makes; `precision`:
    what PyTorch runs a checkpoint in."""

    path: str
    device: str
    batch: int
    calls: int
    seconds: float
    warmup_calls: int
    warmup_seconds: float
    end_to_end_calls: int
    threads: int | None = None
    height: int | None = None
    width: int | None = None
    score: bool = True
    compiled: bool = False
    cache: str | None = None
    precision: str = "fp32"


@dataclass
class Outcome:
    """`status` is "ok" or what went wrong, `reason` says why, `figures` holds what the child measured."""

    status: str
    reason: str = ""
    figures: Message = field(default_factory=dict)
