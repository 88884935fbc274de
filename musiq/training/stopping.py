"""What surrounds train.py's loop: its batches, the state saved and restored, the figures at the end of epochs and of all.

The parts of one step are in musiq.training.optimizer, the files of a run's folder in musiq.training.run_folder.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import click

from musiq.errors import MusiqError, is_memory_short
from musiq.training.run import Run


@contextmanager
def stop_on_signals(run: Run) -> Iterator[None]:
    """Ctrl-C or SIGTERM ends the run after the step at hand with its state saved; a second one does not wait.

    Not with several processes, which would have to stop after the same step: there the last saved state counts.
    """

    def ask(number: int, _: object) -> None:
        if run.stop_asked:
            raise KeyboardInterrupt
        run.stop_asked = True
        click.echo("Stopping after this step; once more to stop at once.", err=True)

    signals = (signal.SIGINT, signal.SIGTERM) if run.accelerator.num_processes == 1 else ()
    before = {number: signal.signal(number, ask) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def tell_shortages(run: Run) -> Iterator[None]:
    """A lack of memory, or of a process that decodes, as a MusiqError that says what to change."""
    settings = run.settings
    try:
        yield
    except (MemoryError, RuntimeError) as problem:
        if is_memory_short(problem):
            raise MusiqError(
                f"There is not enough memory on {run.accelerator.device} for {settings.batch_size} images of "
                f"{settings.width}x{settings.height} a step: give --checkpointing, a larger --accumulate, or a smaller "
                "--batch-size."
            ) from problem
        if "DataLoader worker" in str(problem):
            raise MusiqError(
                f"A process that decodes images was ended from outside, most often for lack of memory ({problem}). "
                f"Go on with fewer: python train.py --resume --out {run.folder} --workers {run.workers // 2}"
            ) from problem
        raise
