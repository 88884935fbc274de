"""What a person at the terminal sees of a run: a bar while it goes on, and one line at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from musiq.score import Scorer

if TYPE_CHECKING:
    from musiq.ray_engine import RayScorer


def summary(scorer: Scorer | RayScorer, scored: int, errors: int, seconds: float) -> str:
    """One line: counts, speed, and which side held the other up."""
    seconds = max(seconds, 1e-9)
    rate = per_second((scored + errors) / seconds)
    said = f"{scored:,} scored, {errors:,} error{'' if errors == 1 else 's'}, {rate}"
    if not isinstance(scorer, Scorer):
        return said
    decode, model = scorer.busy.decode_s / scorer.workers, scorer.busy.model_s / scorer.in_flight
    return f"{said} (decode {min(decode / seconds, 1):.0%}, model {min(model / seconds, 1):.0%} busy)"


def per_second(rate: float) -> str:
    return f"{rate:,.0f} images/s" if rate >= 100 else f"{rate:.3g} images/s"


@contextmanager
def progress(total: int | None, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with count, rate, time left and errors, where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    rate, wrong = TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[errors]} errors")
    columns = BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), wrong
    if quiet or not console.is_terminal:
        yield lambda errors: None
        return
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total, rate="", errors=0)

        def advance(errors: int) -> None:
            bar.update(task, advance=1, rate=per_second(bar.tasks[0].speed or 0.0), errors=errors)

        yield advance
