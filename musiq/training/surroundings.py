"""What surrounds train.py's loop: its batches, the state saved and restored, the figures at the end of epochs and of all.

The parts of one step are in musiq.training.learning, the files of a run's folder in musiq.training.runs.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from musiq import checkpoint
from musiq.data import Dataset
from musiq.errors import MusiqError, is_memory_short
from musiq.metrics import srcc, undefined
from musiq.model import Musiq
from musiq.training import learning, runs
from musiq.training.batches import Pictures, cut, epoch_order, load
from musiq.training.runs import Settings, State
from musiq.training.techniques import average_of, equip


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


def prepare_learner(run: Run) -> Learner:
    """As the saved state left it or at its beginning, on the accelerator's device, over all processes."""
    accelerator, settings, parts = run.accelerator, run.settings, run.parts
    model, frozen, missing = learning.build_model(settings, run.dataset, resumed=bool(parts))
    optimizer = learning.build_optimizer(settings, model)
    average = average_of(model, settings.ema)
    if parts:
        model.load_state_dict(parts["model"])
        if average is not None:
            average.load_state_dict(parts["average"])
    else:
        run.state.frozen_norms = frozen
    if missing and accelerator.is_main_process:
        click.echo(missing)
    if average is not None:
        average.to(accelerator.device)
    equip(model, settings, accelerator.device)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    if parts:
        optimizer.load_state_dict(parts["optimizer"])
        if accelerator.scaler is not None and parts["scaler"]:
            accelerator.scaler.load_state_dict(parts["scaler"])
    run.parts = {}  # as large as the model and its optimiser together
    return Learner(model, wrapped, optimizer, average)


def epoch_batches(run: Run, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of the epoch's batches from where the state stands: images and their indices, on the device.

    Pictures that cannot be read are named and left out, which may leave none. Counts what the epoch's steps take, and how
    much of it is waiting for pictures.
    """
    settings, state, accelerator = run.settings, run.state, run.accelerator
    items = run.dataset.split("train")
    flips = (settings.seed, state.epoch) if settings.flip else None
    order = epoch_order(len(items), settings.seed, state.epoch)
    batches = cut(order, size, accelerator.process_index, accelerator.num_processes)[state.step :]
    pictures = Pictures(items, settings.height, settings.width, flips)
    lap = time.monotonic()
    for images, indices, problems in load(pictures, batches, run.workers, pin=accelerator.device.type == "cuda"):
        state.waiting += time.monotonic() - lap
        for problem in problems:
            click.echo(f"Left out of epoch {state.epoch + 1}: {problem}", err=True)
        yield images.to(accelerator.device, non_blocking=True), indices.to(accelerator.device)
        before, lap = lap, time.monotonic()
        state.seconds += lap - before


def note_step(run: Run, step: int, loss: float, rate: float) -> None:
    if not math.isfinite(loss):
        raise MusiqError(
            f"The loss became {loss} in epoch {run.state.epoch + 1}, step {step + 1}. Start again with a smaller --lr (now "
            f"{run.settings.lr:g})" + (", or --mixed-precision no." if run.settings.mixed_precision != "no" else ".")
        )
    run.state.step += 1
    run.state.loss_sum += loss
    if run.log is not None:
        run.log.add_scalar("train/loss", loss, step)
        run.log.add_scalar("train/lr", rate, step)


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
        runs.save_state(run.folder, run.state, parts)
    run.saved_at = time.monotonic()


def end_epoch(run: Run, learner: Learner, per_epoch: int, size: int) -> None:
    """Score the validation split, keep the checkpoint if it is the best yet, and set the state to the next epoch."""
    state, items = run.state, run.dataset.split("val")
    scored = learning.score(run.accelerator, learner.kept, items, run.settings.batch_size, run.workers)
    predicted, labels = read_ones(run, scored.scores, len(scored.problems), "val")
    found, epoch = srcc(predicted, labels), state.epoch
    best = math.isnan(state.best_srcc) or found > state.best_srcc
    if best:
        state.best_srcc, state.best_epoch = found, epoch
    known = None if math.isnan(found) else found
    state.history.append(
        {
            "loss": state.loss_sum / per_epoch,
            "validation_srcc": known,
            "pictures": float(per_epoch * size),
            "seconds": state.seconds,
            "waiting_seconds": state.waiting,
        }
    )
    state.epoch, state.step, state.loss_sum, state.seconds, state.waiting = epoch + 1, 0, 0.0, 0.0, 0.0
    if not run.accelerator.is_main_process:
        return
    for problem in scored.problems if epoch == 0 else []:  # the same in every epoch
        click.echo(f"Left out of the validation: {problem}", err=True)
    notes = {"epoch": epoch + 1, "validation_srcc": known, **vars(run.settings)}
    for name in ("last.safetensors", *(["best.safetensors"] if best else [])):
        checkpoint.save(learner.kept, run.folder / name, notes)
    left_out = f", {len(scored.problems)} unreadable" if scored.problems else ""
    said = f"{found:.4f}" if known is not None else "undefined, " + undefined(predicted, labels)
    say_epoch(run, f"{said} (n={len(labels)}{left_out}){'  best' if best else ''}")
    if run.log is not None:
        run.log.add_scalar("val/srcc", found, (epoch + 1) * per_epoch)
        run.log.flush()


def say_epoch(run: Run, validation: str) -> None:
    """The line of the epoch that is done."""
    last = run.state.history[-1]
    seconds = last["seconds"] or math.inf
    speed = f"{(last['pictures'] or 0) / seconds:.1f} images/s, {(last['waiting_seconds'] or 0) / seconds:.0%} waiting"
    click.echo(
        f"epoch {run.state.epoch:3d}/{run.settings.epochs}  loss {last['loss']:.4f}  validation SRCC {validation}  {speed}"
    )


def read_ones(run: Run, scores: list[float], unreadable: int, split: str) -> tuple[list[float], list[float]]:
    """Scores and labels of the pictures that could be read. Raises MusiqError where the model itself gives no number."""
    pairs = zip(scores, run.dataset.split(split), strict=True)
    read = [(score, item.mos) for score, item in pairs if not math.isnan(score)]
    if len(read) + unreadable < len(scores):
        raise MusiqError(
            f"The model's scores are no numbers any more. Start again with a smaller --lr (now {run.settings.lr:g})."
        )
    return [score for score, _ in read], [mos for _, mos in read]


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
                f"There is not enough memory on {run.accelerator.device} for {settings.batch_size} pictures of "
                f"{settings.width}x{settings.height} a step: give --checkpointing, a larger --accumulate, or a smaller "
                "--batch-size."
            ) from problem
        if "DataLoader worker" in str(problem):
            raise MusiqError(
                f"A process that decodes pictures was ended from outside, most often for lack of memory ({problem}). "
                f"Go on with fewer: python train.py --resume --out {run.folder} --workers {run.workers // 2}"
            ) from problem
        raise


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

    names = [str(folder or runs.new_folder(preset))]
    broadcast_object_list(names)
    return Path(names[0])
