"""What a person at the terminal sees of a run: a bar while it goes on, and one line at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
import warnings
from typing import TYPE_CHECKING, Any

import click

from musiq.errors import MusiqError

if TYPE_CHECKING:
    pass


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


class Command(click.Command):
    """A command whose user errors are one line on stderr and exit code 1, never a traceback.

    Ctrl-C exits with 130. A reader that goes away (`| head`) ends it quietly, which click itself sees to.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _plain_warnings():
                return super().invoke(ctx)
        except MusiqError as problem:
            click.echo("Error: " + " ".join(str(problem).split()), err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings for the person at the terminal, without the line of code that gave them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before
