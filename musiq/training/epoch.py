"""What an epoch does around train.py's steps: loads batches, records steps, validates, writes checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import click
import torch
from torch import Tensor

from musiq.datasets.dataset import Labelled
from musiq.errors import MusiqError
from musiq.metrics import srcc, undefined
from musiq.model import checkpoint
from musiq.training import evaluate
from musiq.training.dataloader import LabelledImages, batches_of_rank, epoch_order, load_batches
from musiq.training.evaluate import Scored
from musiq.training.run import Learner, Run, check_unread
from musiq.training.run_folder import EpochRecord


def epoch_batches(run: Run, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of the epoch's batches from where the state stands: images and their indices, on the device.

    Images that cannot be read are named and left out, which may leave none. Counts what the epoch's steps take, and how
    much of it is waiting for images. Raises MusiqError where more than TOLERATED of the epoch's images could not be read.
    """
    recipe, state, accelerator = run.recipe, run.state, run.accelerator
    items = run.train_items
    flips = (recipe.seed, state.epoch) if recipe.flip else None
    order = epoch_order(len(items), recipe.seed, state.epoch)
    batches = batches_of_rank(order, size, accelerator.process_index, accelerator.num_processes)[state.step :]
    decoded = LabelledImages(items, recipe.height, recipe.width, flips)
    dataset, workers = (decoded, run.workers) if run.maps is None else (run.maps.train(flips), 0)
    on_gpu = accelerator.device.type == "cuda"
    lap = time.monotonic()
    for images, indices, problems in load_batches(dataset, batches, workers, pin=on_gpu):
        state.waiting += time.monotonic() - lap
        for problem in problems:
            click.echo(f"Left out of epoch {state.epoch + 1}: {problem}", err=True)
        run.lost = _sum_of_processes(run, len(problems))
        state.unread += run.lost
        check_unread(run, state.unread, len(order) // size * size, f"epoch {state.epoch + 1}")
        yield images.to(accelerator.device, non_blocking=True), indices.to(accelerator.device)
        before, lap = lap, time.monotonic()
        state.seconds += lap - before


def _sum_of_processes(run: Run, count: int) -> int:
    if run.accelerator.num_processes == 1:
        return count
    return int(run.accelerator.reduce(torch.tensor(count, device=run.accelerator.device), "sum"))


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
    """Score the validation split, keep the checkpoint if it is the best yet, and set the state to the next epoch. Where the
    validation images are trained on, nothing is scored and each epoch is better than those before."""
    state, items = run.state, run.dataset.split("val") if run.recipe.train_on == "train" else []
    maps, workers = (None, run.workers) if run.maps is None else (run.maps.validation(), 0)
    scored = evaluate.score(run.accelerator, learner.kept, items, run.recipe.batch_size, workers, images=maps)
    check_unread(run, len(scored.problems), len(items), "the validation split")
    predicted, labels = readable(run, scored, items)
    found = srcc(predicted, labels)
    is_best = math.isnan(state.best_srcc) or found > state.best_srcc
    if is_best:
        state.best_srcc, state.best_epoch = found, state.epoch
    known = None if math.isnan(found) else found
    done = EpochRecord(state.loss_sum / per_epoch, known, float(per_epoch * size), state.seconds, state.waiting)
    state.history.append(done)
    state.epoch += 1
    state.step, state.unread, state.loss_sum, state.seconds, state.waiting = 0, 0, 0.0, 0.0, 0.0
    if not run.is_main:
        return
    notes = {"epoch": state.epoch, "validation_srcc": known, **vars(run.recipe)}
    for name in ("last.safetensors", *(["best.safetensors"] if is_best else [])):
        checkpoint.save(learner.kept, run.folder / name, notes)
    print_epoch(run, scored, is_best, undefined(predicted, labels))
    if run.log is not None:
        run.log.add_scalar("val/srcc", found, state.epoch * per_epoch)
        run.log.flush()


def print_epoch(run: Run, scored: Scored, is_best: bool, undefined: str) -> None:
    """A line of the epoch that is done; `undefined` is why there is no SRCC."""
    epoch, done = run.state.epoch, run.state.history[-1]
    for problem in scored.problems if epoch == 1 else []:  # the same in every epoch
        click.echo(f"Left out of the validation: {problem}", err=True)
    found = f"undefined, {undefined}" if done.validation_srcc is None else f"{done.validation_srcc:.4f}"
    if run.recipe.train_on != "train":
        found = "none, its images are trained on"
    left_out = f", {len(scored.problems)} unreadable" if scored.problems else ""
    count = f"n={len(scored.scores) - len(scored.problems)}{left_out}"
    seconds = done.seconds or math.inf
    speed = f"{done.images / seconds:.1f} images/s, {done.waiting_seconds / seconds:.0%} waiting"
    click.echo(
        f"epoch {epoch:3d}/{run.recipe.epochs}  loss {done.loss:.4f}  validation SRCC {found} ({count})"
        f"{'  best' if is_best else ''}  {speed}"
    )


def readable(run: Run, scored: Scored, items: Sequence[Labelled]) -> tuple[list[float], list[float]]:
    """Scores and labels of the images that could be read. Raises MusiqError where the model itself gives no number."""
    pairs = zip(scored.scores, items, strict=True)
    read = [(score, item.mos) for score, item in pairs if not math.isnan(score)]
    if len(read) + len(scored.problems) < len(scored.scores):
        raise MusiqError(
            f"The model's scores are no numbers any more. Start again with a smaller --lr (now {run.recipe.lr:g})."
        )
    return [score for score, _ in read], [mos for _, mos in read]
