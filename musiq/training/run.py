"""What surrounds train.py's loop: its batches, the state saved and restored, the figures at the end of epochs and of all.

The parts of one step are in musiq.training.optimizer, the files of a run's folder in musiq.training.run_folder.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn
from torch.optim.swa_utils import AveragedModel

from musiq.datasets.dataset import Dataset
from musiq.errors import MusiqError
from musiq.model.network import Musiq
from musiq.training import run_folder
from musiq.training.run_folder import Settings, State


class StopAskedError(Exception):
    """A signal asked for a stop; the state is saved."""


@dataclass
class Run:
    """All that the loop touches."""

    accelerator: Any
    settings: Settings
    dataset: Dataset
    folder: Path
    workers: int
    save_every: float  # minutes
    state: State = field(default_factory=State)
    parts: dict[str, Any] = field(default_factory=dict)  # state dicts of the model, average, optimiser, gradient scaler
    saved_at: float = field(default_factory=time.monotonic)
    progress: Progress = field(default_factory=lambda: show_progress(False))
    log: Any = None
    stop_asked: bool = False


@dataclass
class Learner:
    """What learns: `model`, the same `wrapped` for all processes, its `optimizer`, and the `average` of its weights, which
    is what is scored and kept, None for none."""

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

    def learn(self) -> None:
        """One step along the gradient."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)


def save_if_due(run: Run, learner: Learner) -> None:
    if run.stop_asked:
        save_state(run, learner)
        raise StopAskedError(f"Stopped in epoch {run.state.epoch + 1}, after {run.state.step} of its steps.")
    if time.monotonic() - run.saved_at >= 60 * run.save_every:
        save_state(run, learner)


def save_state(run: Run, learner: Learner) -> None:
    if run.accelerator.is_main_process:
        parts = {"model": learner.model.state_dict(), "optimizer": learner.optimizer.state_dict()}
        parts["scaler"] = run.accelerator.scaler.state_dict() if run.accelerator.scaler is not None else {}
        if learner.average is not None:
            parts["average"] = learner.average.state_dict()
        run_folder.save_state(run.folder, run.state, parts)
    run.saved_at = time.monotonic()


def show_progress(wanted: bool) -> Progress:
    """Steps with the time left, on stderr; nothing where that is no terminal."""
    console = Console(stderr=True)
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
    shown = wanted and console.is_terminal
    return Progress(*columns, console=console, disable=not shown, redirect_stdout=shown and sys.stdout.isatty())


def open_log(run: Run) -> Any:
    """TensorBoard's writer, of the main process; None where tensorboard is not installed."""
    if not run.accelerator.is_main_process:
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
