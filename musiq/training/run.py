"""The state of a training run in memory: what the loop touches, how it is saved, stopped by signals, and logged."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from torch import nn
from torch.optim.swa_utils import AveragedModel

from musiq.datasets.dataset import Dataset
from musiq.errors import MusiqError, is_memory_short
from musiq.model.network import Musiq
from musiq.training import run_folder
from musiq.training.recipe import Recipe
from musiq.training.run_folder import State


class StopAskedError(Exception):
    """A signal asked for a stop; the state is saved."""


@dataclass
class Run:
    """All that the loop touches.

    Attributes:
        accelerator: accelerate's, of this process.
        recipe: What decides the weights.
        dataset: The labelled images, each in a split.
        folder: Where everything is written.
        workers: Processes that decode images; 0: this one does.
        save_every: Minutes between saved states within an epoch.
        state: Where the run stands.
        parts: State dicts by which the run goes on: of model, average, optimizer, gradient scaler; {} at its beginning.
        saved_at: When the state was saved last, by `time.monotonic`.
        log: TensorBoard's writer, or None.
        stop_asked: Whether a signal came.
    """

    accelerator: Any
    recipe: Recipe
    dataset: Dataset
    folder: Path
    workers: int
    save_every: float
    state: State = field(default_factory=State)
    parts: dict[str, Any] = field(default_factory=dict)
    saved_at: float = field(default_factory=time.monotonic)
    log: Any = None
    stop_asked: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return bool(self.accelerator.is_main_process)


@dataclass
class Learner:
    """What learns.

    Attributes:
        model: The model of this process.
        wrapped: The same as accelerate wraps it for all processes.
        optimizer: Of its weights.
        average: The running average of its weights, which is what is scored and kept; None for none.
    """

    model: Musiq
    wrapped: nn.Module
    optimizer: Any
    average: AveragedModel | None

    @property
    def kept(self) -> Musiq:
        """The model that is scored and written to checkpoints."""
        if self.average is None:
            return self.model
        averaged = self.average.module
        assert isinstance(averaged, Musiq)
        return averaged

    def step(self) -> None:
        """One step along the gradient, which is cleared."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)


def save_if_due(run: Run, learner: Learner) -> None:
    """Save the state where its time has come. Raises StopAskedError, with it saved, where a signal asked for a stop."""
    if run.stop_asked:
        save_state(run, learner)
        raise StopAskedError(f"Stopped in epoch {run.state.epoch + 1}, after {run.state.step} of its steps.")
    if time.monotonic() - run.saved_at >= 60 * run.save_every:
        save_state(run, learner)


def save_state(run: Run, learner: Learner) -> None:
    if run.is_main:
        parts = {"model": learner.model.state_dict(), "optimizer": learner.optimizer.state_dict()}
        parts["scaler"] = run.accelerator.scaler.state_dict() if run.accelerator.scaler is not None else {}
        if learner.average is not None:
            parts["average"] = learner.average.state_dict()
        run_folder.save_state(run.folder, run.state, parts)
    run.saved_at = time.monotonic()


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
def explain_shortages(run: Run) -> Iterator[None]:
    """A lack of memory, or of a process that decodes, as a MusiqError that says what to change."""
    recipe = run.recipe
    try:
        yield
    except (MemoryError, RuntimeError) as problem:
        if is_memory_short(problem):
            raise MusiqError(
                f"There is not enough memory on {run.accelerator.device} for {recipe.batch_size} images of "
                f"{recipe.width}x{recipe.height} a step: give --checkpointing, a larger --accumulate, or a smaller "
                "--batch-size."
            ) from problem
        if "DataLoader worker" in str(problem):
            raise MusiqError(
                f"A process that decodes images was ended from outside, most often for lack of memory ({problem}). "
                f"Go on with fewer: python train.py --resume --out {run.folder} --workers {run.workers // 2}"
            ) from problem
        raise


def open_log(run: Run) -> Any:
    """TensorBoard's writer, of the main process; None where tensorboard is not installed."""
    if not run.is_main:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run.folder / "tensorboard"))


def start_accelerator(mixed_precision: str, cpu: bool) -> Any:
    """accelerate's Accelerator for this process. Raises MusiqError for a precision that this device does not have."""
    from accelerate import Accelerator

    try:
        return Accelerator(mixed_precision=mixed_precision, cpu=cpu)
    except (ValueError, ImportError) as problem:
        raise MusiqError(f"--mixed-precision {mixed_precision} does not work here: {problem}") from problem


def agree_on_folder(accelerator: Any, folder: Path | None, preset: str) -> Path:
    """The given folder, or a new one named after the preset and the time, the same in all processes."""
    from accelerate.utils import broadcast_object_list

    names = [str(folder or run_folder.new_folder(preset))]
    broadcast_object_list(names)
    return Path(names[0])
