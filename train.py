"""Train a MUSIQ model on labelled images: one visible loop, on a CPU, a GPU, or several by `accelerate launch`.

This file is the loop and the command; musiq/training has the parts of a step (learning, gradients), what surrounds the
loop, and the options that make a recipe.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musiq.datasets import public
from musiq.datasets.load import open_dataset
from musiq.errors import ImageError
from musiq.images.decode import prepare
from musiq.spec import PRESETS
from musiq.terminal import Command
from musiq.training import run_folder
from musiq.training.losses import parse
from musiq.training.recipe import recipe_options, settle

if TYPE_CHECKING:
    from musiq.training.run import Run

NEEDS = f"""train.py needs images with quality labels, higher being better:

  A public dataset as its authors publish it, unpacked in DIR (what each needs and where it is: --list-data):
      python train.py --data koniq10k --root DIR
  Your own: a CSV with the columns image,mos[,split], the images relative to its folder:
      python train.py --labels labels.csv
  Nothing at hand? A synthetic set of bundled photographs and a small model, minutes on a CPU:
      python -m musiq.datasets.synthetic --out demo/data
      python train.py --preset tiny --labels demo/data/labels.csv

Presets: {", ".join(PRESETS)}. Recipes: --config configs/NAME.toml. Several GPUs: accelerate launch train.py ...
All options: python train.py --help"""


def train(run: Run) -> None:
    """Train, or go on training, to the last epoch; leaves best.safetensors and last.safetensors in the run's folder."""
    from musiq.training import initial_model, optimizer
    from musiq.training.epoch import end_epoch, epoch_batches, note_step
    from musiq.training.initial_model import prepare_learner
    from musiq.training.objective import Objective
    from musiq.training.run import save_if_due, save_state

    accelerator, settings, state = run.accelerator, run.settings, run.state
    items = run.dataset.split("train")
    size = min(settings.batch_size, len(items)) // accelerator.num_processes * accelerator.num_processes
    per_epoch = len(items) // size
    steps = per_epoch * settings.epochs
    learner = prepare_learner(run)
    wanted = optimizer.wanted_of(items, learner.model.spec, accelerator.device)
    objective = Objective(accelerator, settings, wanted, share=size // accelerator.num_processes)
    task = run.progress.add_task("train", total=steps, completed=state.epoch * per_epoch + state.step)

    while state.epoch < settings.epochs:
        initial_model.set_training(learner.model, state.frozen_norms)
        for images, indices in epoch_batches(run, size):
            step = state.epoch * per_epoch + state.step
            rate = optimizer.learning_rate(step, steps, settings.lr, settings.warmup)
            optimizer.set_rates(learner.optimizer, rate)
            loss = objective.backward(learner.wrapped, images, indices, step)
            if settings.clip:
                accelerator.clip_grad_norm_(learner.wrapped.parameters(), settings.clip)
            learner.learn()
            note_step(run, step, loss, rate)
            run.progress.update(task, completed=step + 1, description=f"epoch {state.epoch + 1}/{settings.epochs}")
            if state.step < per_epoch:
                save_if_due(run, learner)
        end_epoch(run, learner, per_epoch, size)
        save_state(run, learner)


FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(cls=Command, context_settings={"show_default": True, "max_content_width": 110})
@click.option(
    "--data",
    multiple=True,
    metavar="NAME[=DIR]",
    help=f"A public dataset as its authors publish it, in DIR or --root: {', '.join(public.DATASETS)}. Several are "
    "joined, their scales aligned.",
)
@click.option(
    "--list-data", is_flag=True, help="Say what each dataset needs on disk and where it is published, and exit."
)
@click.option(
    "--labels",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A CSV image,mos[,split][,std][,c1..cK], or koniq-10k.txt.",
)
@click.option(
    "--root",
    type=FOLDER,
    multiple=True,
    help="Folder of the dataset (one for each --data), or that images are relative to.  [default: that of --labels]",
)
@click.option(
    "--near-duplicates",
    type=click.Choice(["keep", "group", "drop"]),
    default="group",
    help="group: a split drawn here keeps near copies of an image together, one that the labels give is reported and "
    "marked where it does not; drop: also leave copies of val and test images out of train; keep: do not look.",
)
@click.option("--target", help="What the labels are, as every figure will name it.  [default: from the label file]")
@click.option("--terms", help="Terms of the images and labels, for the model card.  [default: known for --data]")
@click.option(
    "--score-range", type=(float, float), help="Worst and best possible label.  [default: known for KonIQ-10k]"
)
@click.option(
    "--max-images", type=click.IntRange(3), help="Use only so many, each split in its proportion.  [default: all]"
)
@click.option("--skip-missing", is_flag=True, help="Go on without images that are not there.")
@recipe_options
@click.option("--cpu", is_flag=True, help="Leave GPUs alone.")
@click.option(
    "--workers", type=click.IntRange(0), default=min(8, os.cpu_count() or 1), help="Processes that decode images."
)
@click.option("--out", type=FOLDER, help="The run's folder.  [default: runs/PRESET-DATE-TIME]")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="auto",
    metavar="[auto|DIR]",
    help="Go on with the run in DIR, or (auto) in --out, or the newest one that can be read; its own settings apply.",
)
@click.option(
    "--save-every", type=click.FloatRange(0), default=10.0, help="Minutes between saved states within an epoch."
)
@click.pass_context
def main(context: click.Context, /, **options: Any) -> None:
    """Train a MUSIQ model on images with quality labels, higher being better.

    Labels come from --data NAME --root DIR or from --labels FILE. The run's folder gets best.safetensors (by SRCC
    on the validation split), and at the end metrics.json, predictions.csv, MODEL_CARD.md and curve.png.
    """
    if options["list_data"]:
        click.echo(public.describe())
        return
    options["outputs"] = int(options["outputs"])
    if not (options["data"] or options["labels"] or options["resume"]):
        click.echo(NEEDS)
        return
    sources = click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.DEFAULT_MAP
    given = {name for name in options if context.get_parameter_source(name) in sources}
    run = open_run(options, given)
    from musiq.training.report import test
    from musiq.training.run import StopAskedError, open_log, show_progress
    from musiq.training.stopping import stop_on_signals, tell_shortages

    if run.state.epoch >= run.settings.epochs and run_folder.scored(run.folder):
        click.echo(
            f"The run in {run.folder} is finished; its figures are in metrics.json, its model in best.safetensors."
        )
        return
    run.log = open_log(run)
    try:
        shown = show_progress(run.accelerator.is_main_process)
        with stop_on_signals(run), tell_shortages(run), shown as run.progress:
            train(run)
            test(run)
            # A process that ends while others still work, or with its connections open, takes them all down.
            run.accelerator.wait_for_everyone()
            run.accelerator.end_training()
    except StopAskedError as stop:
        click.echo(f"{stop} Go on with: python train.py --resume --out {run.folder}", err=True)
        context.exit(130)
    if run.accelerator.is_main_process:
        click.echo(f"The best checkpoint is {run.folder / 'best.safetensors'}")


def open_run(options: dict[str, Any], given: set[str]) -> Run:
    """A new run, or the one to resume, with its folder written once everything is known to be right."""
    # Threads that wait by spinning slow a machine with other work on it several times; read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from musiq.training.model_card import terms_of
    from musiq.training.run import Run, agree_on_folder, start_accelerator

    def say(line: str) -> None:
        if int(os.environ.get("RANK", 0)) == 0:  # of accelerate launch; before there is an accelerator to ask
            click.echo(line)

    settings = settle(options)
    folder = options["out"] if options["resume"] in (None, "auto") else Path(options["resume"])
    # A job that may be stopped at any time has one command line: it begins the run where there is none yet.
    begin = not options["resume"] or bool(given & {"labels", "data"} and not run_folder.exists(folder))
    if not begin:
        folder = folder or run_folder.newest(say)
        saved, dataset = run_folder.read_run(folder)
        run_folder.check_same(saved, dataclasses.asdict(settings), given)
        settings = saved
    accelerator = start_accelerator(settings.mixed_precision, options["cpu"])
    if begin:
        folder = agree_on_folder(accelerator, folder, settings.preset)
        run_folder.check_new(folder)
        parse(settings.loss, settings.outputs)
        with accelerator.main_process_first():  # the others find its thumbnails
            dataset = open_dataset(options, folder, say)
    run = Run(accelerator, settings, dataset, folder, options["workers"], options["save_every"])
    accelerator.wait_for_everyone()  # before one process writes what the others look for
    if accelerator.is_main_process and begin:
        run_folder.write_run(folder, settings, dataset, options["terms"] or terms_of(options["data"]))
    run.state, run.parts = run_folder.load_state(folder, say)
    describe(run, say)
    return run


def describe(run: Run, say: Callable[[str], None]) -> None:
    """What is about to be trained, on what and where; and how the images are made to fit, judged by the first."""
    settings, device = run.settings, run.accelerator.device.type
    where = f"{run.accelerator.num_processes} x {device}" if run.accelerator.num_processes > 1 else device
    say(f"{settings.preset} for {settings.width}x{settings.height} on {where}: {run.dataset.counts()} images")
    say(
        f"target {run.dataset.target!r}, loss {settings.loss}, lr {settings.lr:g}, seed {settings.seed}, in {run.folder}"
    )
    with suppress(ImageError):  # it will be named where it is left out
        first = run.dataset.split("train")[0]
        _, how = prepare(first.path, settings.height, settings.width)
        if how:
            say(
                f"Images are made to fit: {first.image} is {how}. Another --height and --width would keep more of them."
            )


if __name__ == "__main__":
    main()
