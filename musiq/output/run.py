"""One run of `musiq-score`: many images into rows, with progress, and what is told at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import NamedTuple, Protocol

from musiq import files
from musiq.errors import MusiqError
from musiq.output.gallery import Gallery
from musiq.scoring import Row, Scorer
from musiq.scoring.arithmetic import Savings
from musiq.spec import Spec
from musiq.terminal import per_second, progress_bar


class ManyScorer(Protocol):
    """What scores here or on a cluster."""

    @property
    def spec(self) -> Spec: ...

    @property
    def resize(self) -> str: ...

    def score_many(self, sources: list[str], /) -> Iterator[Row]: ...


def model_labels(models: Iterable[Path]) -> dict[str, str]:
    """What rows call each model in a file: its name without ending, and the start of its SHA-256."""
    return {str(model): f"{files.utf8_name(model.stem)}@{files.sha256(model)[:12]}" for model in models}


def labelled(row: Row, labels: Mapping[str, str]) -> Row:
    """The row as files have it: its path in UTF-8, its model by its label, also where it is the only one and the row never
    got to it."""
    only = next(iter(labels.values())) if len(labels) == 1 else ""
    return replace(row, path=files.utf8_name(row.path), model=labels.get(row.model, only))


class Tally(NamedTuple):
    """How many rows have a score, how many an error, how many images were scored for that, counting frames, how long it
    took, and how it would be much faster."""

    scored: int
    errors: int
    images: int
    seconds: float
    advice: str


def score_all(
    scorer: ManyScorer,
    sources: list[str],
    labels: Mapping[str, str],
    write: Callable[[Row], None],
    fail_on_error: bool,
    page: Gallery | None = None,
    *,
    quiet: bool = False,
) -> Tally:
    """Score, write and show each, with progress on stderr unless `quiet`."""
    start, scored, errors, images = time.perf_counter(), 0, 0, 0
    savings = Savings(scorer.spec, scorer.resize)
    known = isinstance(scorer, Scorer) and not scorer.per_frame  # a folder, a shard, a video hold as many as they hold
    with progress_bar(total=len(sources) if known else None, quiet=quiet) as bar:
        frames = count(1)

        def on_frame() -> None:
            bar.tell(note=f"frame {next(frames):,}")

        rows = (
            scorer.score_many(sources, thumbnails=page is not None, on_frame=on_frame)
            if isinstance(scorer, Scorer)
            else scorer.score_many(sources)
        )
        for row in rows:
            written = labelled(row, labels)
            write(written)
            if page:
                page.add(written)
            savings.add(row)
            scored, errors, images = scored + (not row.error), errors + bool(row.error), images + (row.frames or 1)
            if row.error and fail_on_error:
                raise MusiqError(f"{row.path}: {row.error}")
            bar.advance()
            bar.tell(note=f"{per_second(bar.per_second)}, {errors} error{'' if errors == 1 else 's'}")
    return Tally(scored, errors, images, max(time.perf_counter() - start, 1e-9), savings.told())


def summary(scorer: ManyScorer, tally: Tally) -> str:
    """One line: counts, speed, and which side held the other up."""
    scored, errors, images, seconds, _ = tally
    rate = per_second(images / seconds)
    frames = f" ({images:,} images and frames)" if images > scored + errors else ""
    said = f"{scored:,} scored{frames}, {errors:,} error{'' if errors == 1 else 's'}, {rate}"
    if not isinstance(scorer, Scorer):
        return said
    decode, model = scorer.busy.decode_s / scorer.workers, scorer.busy.model_s / scorer.in_flight
    return f"{said} (decode {min(decode / seconds, 1):.0%}, model {min(model / seconds, 1):.0%} busy)"
