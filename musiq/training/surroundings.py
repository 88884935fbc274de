"""What surrounds train.py's loop: its batches, the state saved and restored, the figures at the end of epochs and of all.

The parts of one step are in musiq.training.learning, the files of a run's folder in musiq.training.runs.
"""

from __future__ import annotations

import csv
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
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from musiq import checkpoint
from musiq.artifact import whole
from musiq.data import Dataset
from musiq.errors import MusiqError
from musiq.metrics import agreement, srcc, undefined
from musiq.model import Musiq
from musiq.training import learning, runs
from musiq.training.batches import Pictures, cut, epoch_order, load
from musiq.training.runs import Settings, State


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
    parts: dict[str, Any] = field(default_factory=dict)  # state dicts of the model, optimiser and gradient scaler
    saved_at: float = field(default_factory=time.monotonic)
    progress: Progress = field(default_factory=lambda: show_progress(False))
    log: Any = None
    stop_asked: bool = False


def restore(run: Run, model: Musiq, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
    """Model and optimiser as the saved state left them, on the accelerator's device, over all processes."""
    if run.parts:
        model.load_state_dict(run.parts["model"])
    wrapped, optimizer = run.accelerator.prepare(model, optimizer)
    if run.parts:
        optimizer.load_state_dict(run.parts["optimizer"])
        if run.accelerator.scaler is not None and run.parts["scaler"]:
            run.accelerator.scaler.load_state_dict(run.parts["scaler"])
    run.parts = {}  # as large as the model and its optimiser together
    return wrapped, optimizer


def epoch_batches(run: Run, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of the epoch's batches from where the state stands: images and their indices, on the device.

    Pictures that cannot be read are named and left out; where that leaves none, the images are one black picture, because
    all processes must take each step together, and the indices are empty.
    """
    settings, state, accelerator = run.settings, run.state, run.accelerator
    items = run.dataset.split("train")
    flips = (settings.seed, state.epoch) if settings.flip else None
    order = epoch_order(len(items), settings.seed, state.epoch)
    batches = cut(order, size, accelerator.process_index, accelerator.num_processes)[state.step :]
    pictures = Pictures(items, settings.height, settings.width, flips)
    for images, indices, problems in load(pictures, batches, run.workers, pin=accelerator.device.type == "cuda"):
        for problem in problems:
            click.echo(f"Left out of epoch {state.epoch + 1}: {problem}", err=True)
        if not len(indices):
            images = torch.zeros(1, settings.height, settings.width, 3, dtype=torch.uint8)
        yield images.to(accelerator.device, non_blocking=True), indices.to(accelerator.device)


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


def save_if_due(run: Run, model: Musiq, optimizer: Any) -> None:
    if run.stop_asked:
        save_state(run, model, optimizer)
        raise StopAskedError(f"Stopped in epoch {run.state.epoch + 1}, after {run.state.step} of its steps.")
    if time.monotonic() - run.saved_at >= 60 * run.save_every:
        save_state(run, model, optimizer)


def save_state(run: Run, model: Musiq, optimizer: Any) -> None:
    if run.accelerator.is_main_process:
        scaler = run.accelerator.scaler.state_dict() if run.accelerator.scaler is not None else {}
        parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler}
        runs.save_state(run.folder, run.state, parts)
    run.saved_at = time.monotonic()


def end_epoch(run: Run, model: Musiq, per_epoch: int) -> None:
    """Score the validation split, keep the checkpoint if it is the best yet, and set the state to the next epoch."""
    state, items = run.state, run.dataset.split("val")
    scores, problems = learning.score(run.accelerator, model, items, run.settings.batch_size, run.workers)
    predicted, labels = read_ones(run, scores, len(problems), "val")
    found = srcc(predicted, labels)
    best = math.isnan(state.best_srcc) or found > state.best_srcc
    mean_loss, epoch = state.loss_sum / per_epoch, state.epoch
    if best:
        state.best_srcc, state.best_epoch = found, epoch
    state.epoch, state.step, state.loss_sum = epoch + 1, 0, 0.0
    if not run.accelerator.is_main_process:
        return
    for problem in problems if epoch == 0 else []:  # the same in every epoch
        click.echo(f"Left out of the validation: {problem}", err=True)
    notes = {"epoch": epoch + 1, "validation_srcc": None if math.isnan(found) else found, **vars(run.settings)}
    for name in ("last.safetensors", *(["best.safetensors"] if best else [])):
        checkpoint.save(model, run.folder / name, notes)
    said = f"{found:.4f}" if not math.isnan(found) else "undefined, " + undefined(predicted, labels)
    left_out = f", {len(problems)} unreadable" if problems else ""
    click.echo(
        f"epoch {epoch + 1:3d}/{run.settings.epochs}  loss {mean_loss:.4f}  validation SRCC {said} "
        f"(n={len(labels)}{left_out}){'  best' if best else ''}"
    )
    if run.log is not None:
        run.log.add_scalar("val/srcc", found, (epoch + 1) * per_epoch)
        run.log.flush()


def read_ones(run: Run, scores: list[float], unreadable: int, split: str) -> tuple[list[float], list[float]]:
    """Scores and labels of the pictures that could be read. Raises MusiqError where the model itself gives no number."""
    pairs = zip(scores, run.dataset.split(split), strict=True)
    read = [(score, item.mos) for score, item in pairs if not math.isnan(score)]
    if len(read) + unreadable < len(scores):
        raise MusiqError(
            f"The model's scores are no numbers any more. Start again with a smaller --lr (now {run.settings.lr:g})."
        )
    return [score for score, _ in read], [mos for _, mos in read]


def test(run: Run) -> None:
    """Score the test split with the best checkpoint; writes predictions.csv and metrics.json, and prints the figures."""
    items, target = run.dataset.split("test"), run.dataset.target
    if not items:
        click.echo("Test: the labels have no test split.")
        return
    model = checkpoint.load(run.folder / "best.safetensors").to(run.accelerator.device)
    task = run.progress.add_task("test", total=len(items))
    scores, problems = learning.score(
        run.accelerator,
        model,
        items,
        run.settings.batch_size,
        run.workers,
        lambda count: run.progress.advance(task, count),
    )
    if not run.accelerator.is_main_process:
        return
    for problem in problems:
        click.echo(f"Left out of the test: {problem}", err=True)
    write_predictions(run, scores)
    predicted, labels = read_ones(run, scores, len(problems), "test")
    figures = agreement(predicted, labels)
    known = {name: None if math.isnan(value) else value for name, value in figures.items()}
    epoch = run.state.best_epoch + 1
    facts = {"target": target, "split": "test", "n": len(labels), "unreadable": len(problems), "best_epoch": epoch}
    runs.write_json(run.folder / "metrics.json", {**facts, **known, "undefined": undefined(predicted, labels)})
    shown = "  ".join(f"{SHOWN[name]} {value:.4f}" for name, value in figures.items() if not math.isnan(value))
    click.echo(f"Test: {shown or undefined(predicted, labels)}")
    click.echo(f"      n={len(labels)} pictures of the test split, target {target!r}, checkpoint of epoch {epoch}")


SHOWN = {"srcc": "SRCC", "plcc": "PLCC", "plcc_fitted": "PLCC (fitted)", "krcc": "KRCC", "rmse": "RMSE"}


def write_predictions(run: Run, scores: list[float]) -> None:
    items = run.dataset.split("test")
    extra = list(items[0].extra) if items else []
    with whole(run.folder / "predictions.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mos", "score", *extra])
        for item, score in zip(items, scores, strict=True):
            writer.writerow([item.image, item.mos, "" if math.isnan(score) else score, *item.extra.values()])


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
