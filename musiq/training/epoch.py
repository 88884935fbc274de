"""What an epoch does around train.py's steps: loads batches, records steps, validates, writes checkpoints."""

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
from musiq.training.dataloader import LabelledImages, batches_of_rank, epoch_order, load_batches
from musiq.training.evaluate import Scored
from musiq.training.run import Learner, Run


def epoch_batches(run: Run, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of the epoch's batches from where the state stands: images and their indices, on the device.

    Images that cannot be read are named and left out, which may leave none. Counts what the epoch's steps take, and how
    much of it is waiting for images.
    """
    recipe, state, accelerator = run.recipe, run.state, run.accelerator
    items = run.dataset.split("train")
    flips = (recipe.seed, state.epoch) if recipe.flip else None
    order = epoch_order(len(items), recipe.seed, state.epoch)
    batches = batches_of_rank(order, size, accelerator.process_index, accelerator.num_processes)[state.step :]
    dataset = LabelledImages(items, recipe.height, recipe.width, flips)
    on_gpu = accelerator.device.type == "cuda"
    lap = time.monotonic()
    for images, indices, problems in load_batches(dataset, batches, run.workers, pin=on_gpu):
        state.waiting += time.monotonic() - lap
        for problem in problems:
            click.echo(f"Left out of epoch {state.epoch + 1}: {problem}", err=True)
        yield images.to(accelerator.device, non_blocking=True), indices.to(accelerator.device)
        before, lap = lap, time.monotonic()
        state.seconds += lap - before


def record_step(run: Run, step: int, loss: float, rate: float) -> None:
    """Count a step that is done, and log it. Raises MusiqError for a loss that is not finite."""
    if not math.isfinite(loss):
        raise MusiqError(
            f"The loss became {loss} in epoch {run.state.epoch + 1}, step {step + 1}. Start again with a smaller --lr (now "
            f"{run.recipe.lr:g})" + (", or --mixed-precision no." if run.recipe.mixed_precision != "no" else ".")
        )
    run.state.step += 1
    run.state.loss_sum += loss
    if run.log is not None:
        run.log.add_scalar("train/loss", loss, step)
        run.log.add_scalar("train/lr", rate, step)


def end_epoch(run: Run, learner: Learner, per_epoch: int, size: int) -> None:
    """Score the validation split, keep the checkpoint if it is the best yet, and set the state to the next epoch."""
    state, items = run.state, run.dataset.split("val")
    scored = evaluate.score(run.accelerator, learner.kept, items, run.recipe.batch_size, run.workers)
    predicted, labels = readable(run, scored, "val")
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
    if not run.is_main:
        return
    for problem in scored.problems if epoch == 0 else []:  # the same in every epoch
        click.echo(f"Left out of the validation: {problem}", err=True)
    notes = {"epoch": epoch + 1, "validation_srcc": known, **vars(run.recipe)}
    for name in ("last.safetensors", *(["best.safetensors"] if best else [])):
        checkpoint.save(learner.kept, run.folder / name, notes)
    left_out = f", {len(scored.problems)} unreadable" if scored.problems else ""
    shown = f"{found:.4f}" if known is not None else "undefined, " + undefined(predicted, labels)
    print_epoch(run, f"{shown} (n={len(labels)}{left_out}){'  best' if best else ''}")
    if run.log is not None:
        run.log.add_scalar("val/srcc", found, (epoch + 1) * per_epoch)
        run.log.flush()


def print_epoch(run: Run, validation: str) -> None:
    """The line of the epoch that is done."""
    last = run.state.history[-1]
    seconds = last["seconds"] or math.inf
    speed = f"{(last['images'] or 0) / seconds:.1f} images/s, {(last['waiting_seconds'] or 0) / seconds:.0%} waiting"
    click.echo(
        f"epoch {run.state.epoch:3d}/{run.recipe.epochs}  loss {last['loss']:.4f}  validation SRCC {validation}  {speed}"
    )


def readable(run: Run, scored: Scored, split: str) -> tuple[list[float], list[float]]:
    """Scores and labels of the images that could be read. Raises MusiqError where the model itself gives no number."""
    pairs = zip(scored.scores, run.dataset.split(split), strict=True)
    read = [(score, item.mos) for score, item in pairs if not math.isnan(score)]
    if len(read) + len(scored.problems) < len(scored.scores):
        raise MusiqError(
            f"The model's scores are no numbers any more. Start again with a smaller --lr (now {run.recipe.lr:g})."
        )
    return [score for score, _ in read], [mos for _, mos in read]
