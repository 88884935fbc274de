"""What surrounds train.py's loop: its batches, the state saved and restored, the figures at the end of epochs and of all.

The parts of one step are in musiq.training.optimizer, the files of a run's folder in musiq.training.run_folder.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import click
from torch import Tensor

from musiq.errors import MusiqError
from musiq.metrics import srcc, undefined
from musiq.model import checkpoint
from musiq.training import evaluate
from musiq.training.dataloader import LabelledImages, cut, epoch_order, load
from musiq.training.run import Learner, Run


def epoch_batches(run: Run, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of the epoch's batches from where the state stands: images and their indices, on the device.

    Images that cannot be read are named and left out, which may leave none. Counts what the epoch's steps take, and how
    much of it is waiting for images.
    """
    settings, state, accelerator = run.settings, run.state, run.accelerator
    items = run.dataset.split("train")
    flips = (settings.seed, state.epoch) if settings.flip else None
    order = epoch_order(len(items), settings.seed, state.epoch)
    batches = cut(order, size, accelerator.process_index, accelerator.num_processes)[state.step :]
    dataset = LabelledImages(items, settings.height, settings.width, flips)
    lap = time.monotonic()
    for images, indices, problems in load(dataset, batches, run.workers, pin=accelerator.device.type == "cuda"):
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


def end_epoch(run: Run, learner: Learner, per_epoch: int, size: int) -> None:
    """Score the validation split, keep the checkpoint if it is the best yet, and set the state to the next epoch."""
    state, items = run.state, run.dataset.split("val")
    scored = evaluate.score(run.accelerator, learner.kept, items, run.settings.batch_size, run.workers)
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
            "images": float(per_epoch * size),
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
    speed = f"{(last['images'] or 0) / seconds:.1f} images/s, {(last['waiting_seconds'] or 0) / seconds:.0%} waiting"
    click.echo(
        f"epoch {run.state.epoch:3d}/{run.settings.epochs}  loss {last['loss']:.4f}  validation SRCC {validation}  {speed}"
    )


def read_ones(run: Run, scores: list[float], unreadable: int, split: str) -> tuple[list[float], list[float]]:
    """Scores and labels of the images that could be read. Raises MusiqError where the model itself gives no number."""
    pairs = zip(scores, run.dataset.split(split), strict=True)
    read = [(score, item.mos) for score, item in pairs if not math.isnan(score)]
    if len(read) + unreadable < len(scores):
        raise MusiqError(
            f"The model's scores are no numbers any more. Start again with a smaller --lr (now {run.settings.lr:g})."
        )
    return [score for score, _ in read], [mos for _, mos in read]
