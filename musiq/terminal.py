"""The terminal: what commands print, how their errors end, and the one progress bar."""

from __future__ import annotations

import errno
import io
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

import click

from musiq.errors import MusiqError
from musiq.version import __version__

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What writing fails with on a disk that is full, over a quota or damaged."""


class FiniteRange(click.FloatRange):
    """A number within a range, which NaN and infinity are not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{number} is no finite number.", param, ctx)


class Command(click.Command):
    """A command whose user errors are one line on stderr and exit code 1, never a traceback.

    Ctrl-C exits with 130. A reader that goes away (`| head`) ends it quietly. What it prints may hold any character: one
    that the terminal or the locale does not have is printed as `\\u2713`.
    """

    def __init__(self, *args: Any, **extra: Any) -> None:
        super().__init__(*args, **extra)
        click.version_option(__version__, prog_name="musiq", message="%(prog)s %(version)s")(self)

    def main(self, *args: Any, **extra: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            try:
                return super().main(*args, **extra)
            except MusiqError as problem:  # also of options that are checked as they are read
                tell("Error: " + " ".join(str(problem).split()))
                sys.exit(1)
            finally:
                _flush()
        except OSError as problem:
            if problem.errno not in (*NO_ROOM, errno.EPIPE):
                raise
            _abandon(sys.stdout)
            if problem.errno == errno.EPIPE:  # only found by the last flush
                sys.exit(1)
            place = (
                f" {problem.filename}" if problem.filename else ""
            )  # it has none where it was open already, as stdout
            tell(f"Error: Cannot write{place}: {problem.strerror}. Make room on the disk.")
            sys.exit(1)
        finally:
            _flush_errors()

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _plain_warnings():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            tell("Interrupted.")
            ctx.exit(130)


def tell(line: str) -> None:
    """Print a line on stderr. Work goes on where that cannot be written, as a log on a full disk."""
    try:
        click.echo(line, err=True)
    except OSError:
        _abandon(sys.stderr)


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _flush_errors() -> None:
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        _abandon(sys.stderr)


def _abandon(stream: TextIO) -> None:
    """Send the rest of a stream nowhere: Python flushes it at its end, and would fail again."""
    with suppress(OSError, ValueError):  # a stream within a test has no number
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings for the person at the terminal, without the line of code that gave them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


class ProgressBar:
    """The handle that `progress_bar` yields; it does nothing where there is no bar to see."""

    def __init__(self, bar: Progress | None = None, task: TaskID | None = None) -> None:
        self._bar, self._task = bar, task

    def advance(self, steps: int = 1) -> None:
        """Count `steps` as done."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, steps)

    def tell(self, title: str | None = None, note: str | None = None) -> None:
        """Change the text before the bar (`title`) or behind it (`note`)."""
        if self._bar is not None and self._task is not None:
            if note is not None:
                self._bar.update(self._task, note=note)
            self._bar.update(self._task, description=title)

    @property
    def per_second(self) -> float:
        """Steps a second of late; 0 where that is not known."""
        return (self._bar.tasks[0].speed if self._bar is not None else None) or 0.0


@contextmanager
def progress_bar(
    title: str = "", total: int | None = None, *, done: int = 0, quiet: bool = False
) -> Iterator[ProgressBar]:
    """Show work on stderr while the block runs: title, bar, count, time taken, time left, note.

    Nothing is shown where stderr is no terminal, so that logs stay clean.

    Args:
        title: What is being done; may be changed with `ProgressBar.tell`.
        total: Steps in all; None where that is not known, which shows a bar that moves to and fro.
        done: Steps that were done before, of a run that goes on.
        quiet: Show nothing.

    Yields:
        The bar, to `advance` and to `tell`.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield ProgressBar()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    # Lines that the work prints go above the bar; where stdout is a file or a pipe, they go there.
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        yield ProgressBar(bar, bar.add_task(title, total=total, completed=done, note=""))


def per_second(rate: float) -> str:
    """A rate for people: "1,234 images/s", "2.31 images/s"."""
    return f"{rate:,.0f} images/s" if rate >= 100 else f"{rate:.3g} images/s"
