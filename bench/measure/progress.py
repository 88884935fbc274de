"""What the run is doing, on stderr, where that is a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .rounds import Progress as Said


@contextmanager
def progress(steps: int) -> Iterator[Said]:
    """Show on stderr what is being done: a call with text says what, with "" that one of the steps is done."""
    console = Console(stderr=True)
    columns = (BarColumn(20), TextColumn("{task.completed:.0f}/{task.total:.0f}"), TimeElapsedColumn())
    bar = Progress(
        *columns,
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=steps)

        def said(text: str) -> None:
            bar.update(task, description=text, advance=0) if text else bar.advance(task)

        yield said
