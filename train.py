"""Train a MUSIQ model on labelled pictures: one visible loop, on a CPU, a GPU, or several by `accelerate launch`.

This file is the loop and the command; musiq/training has the parts of a step (learning) and what surrounds the loop.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musiq import datasets
from musiq.cli import Command
from musiq.collect import open_dataset
from musiq.errors import ImageError
from musiq.image import prepare
from musiq.losses import MARGIN, ON_SCORES, ON_SHARES, parse
from musiq.spec import PRESETS
from musiq.training import runs
from musiq.training.runs import Settings

if TYPE_CHECKING:
    from musiq.training.surroundings import Run

# What a preset needs so that nothing else has to be given. The tiny one's are tuned on the demo's pictures; the others
# follow common practice for a pretrained trunk at these picture sizes.
DEFAULTS: dict[str, dict[str, Any]] = {
    "resnet50": {"epochs": 30, "batch_size": 8, "lr": 5e-5, "trunk_weights": "download", "loss": "l1"},
    "resnet50-classic": {"epochs": 30, "batch_size": 8, "lr": 5e-5, "trunk_weights": "download", "loss": "l1"},
    "musiq": {"epochs": 30, "batch_size": 16, "lr": 1e-4, "trunk_weights": "none", "loss": "l1"},
    "musiq-pyiqa": {"epochs": 30, "batch_size": 16, "lr": 1e-4, "trunk_weights": "none", "loss": "l1"},
    "tiny": {"epochs": 6, "batch_size": 16, "lr": 1e-3, "trunk_weights": "none", "loss": "l1+ranking"},
}

NEEDS = f"""train.py needs pictures with quality labels, higher being better:

  A public dataset as its authors publish it, unpacked in DIR (what each needs and where it is: --list-data):
      python train.py --data koniq10k --root DIR
  Your own: a CSV with the columns image,mos[,split], the pictures relative to its folder:
      python train.py --labels labels.csv
  Nothing at hand? A synthetic set of bundled photographs and a small model, minutes on a CPU:
      python -m musiq.demo --out demo/data
      python train.py --preset tiny --labels demo/data/labels.csv

Presets: {", ".join(PRESETS)}. Several GPUs: accelerate launch train.py ...
All options: python train.py --help"""


def train(run: Run) -> None:
    """Train, or go on training, to the last epoch; leaves best.safetensors and last.safetensors in the run's folder."""
    from musiq.training import learning
    from musiq.training.surroundings import end_epoch, epoch_batches, note_step, restore, save_if_due, save_state

    accelerator, settings, state = run.accelerator, run.settings, run.state
    items, terms = run.dataset.split("train"), parse(settings.loss, settings.outputs)
    model = learning.build_model(settings, run.dataset)
    wrapped, optimizer = restore(run, model, learning.build_optimizer(settings, model))
    wanted_scores, wanted_shares = learning.wanted_of(items, model.spec, accelerator.device)
    size = min(settings.batch_size, len(items)) // accelerator.num_processes * accelerator.num_processes
    per_epoch = len(items) // size
    steps = per_epoch * settings.epochs
    task = run.progress.add_task("train", total=steps, completed=state.epoch * per_epoch + state.step)

    while state.epoch < settings.epochs:
        learning.set_training(model, settings.batch_norm)
        for images, indices in epoch_batches(run, size):
            step = state.epoch * per_epoch + state.step
            rate = learning.learning_rate(step, steps, settings.lr, settings.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate
            outputs = wrapped(images).float()  # (B, K)
            wanted = wanted_scores[indices], None if wanted_shares is None else wanted_shares[indices]
            loss = learning.loss_of(outputs, wanted, terms, settings.margin)
            accelerator.backward(loss)
            if settings.clip:
                accelerator.clip_grad_norm_(wrapped.parameters(), settings.clip)
            optimizer.step()
            optimizer.zero_grad()
            note_step(run, step, float(loss.detach()), rate)
            run.progress.update(task, completed=step + 1, description=f"epoch {state.epoch + 1}/{settings.epochs}")
            if state.step < per_epoch:
                save_if_due(run, model, optimizer)
        end_epoch(run, model, per_epoch)
        save_state(run, model, optimizer)


def settle(options: dict[str, Any]) -> Settings:
    """Options, completed by the preset's defaults."""
    defaults = DEFAULTS[options["preset"]]
    values: dict[str, Any] = {
        name: defaults.get(name) if options[name] is None else options[name] for name in Settings.__annotations__
    }
    spec = PRESETS[options["preset"]]
    values["height"], values["width"] = values["height"] or spec.height, values["width"] or spec.width
    values["start"] = str(options["start"]) if options["start"] else None
    if values["start"]:
        values["trunk_weights"] = "none"
    if options["loss"] is None and options["outputs"] > 1:
        values["loss"] = "emd"
    if values["batch_norm"] == "auto":
        values["batch_norm"] = "trained" if values["trunk_weights"] == "none" and not values["start"] else "frozen"
    return Settings(**values)


def by_preset(name: str) -> str:
    """The defaults of an option that differ among presets, for its help."""
    groups: dict[Any, list[str]] = {}
    for key, values in DEFAULTS.items():
        groups.setdefault(values[name], []).append(key)
    return "; ".join(f"{value} for {', '.join(keys)}" for value, keys in groups.items())


FILE = click.Path(exists=False, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(cls=Command, context_settings={"show_default": True, "max_content_width": 110})
@click.option(
    "--data",
    multiple=True,
    metavar="NAME[=DIR]",
    help=f"A public dataset as its authors publish it, in DIR or --root: {', '.join(datasets.DATASETS)}. Several are "
    "joined, their scales aligned.",
)
@click.option(
    "--list-data", is_flag=True, help="Say what each dataset needs on disk and where it is published, and exit."
)
@click.option("--labels", type=FILE, help="A CSV image,mos[,split][,std][,c1..cK], or koniq-10k.txt.")
@click.option(
    "--root",
    type=FOLDER,
    multiple=True,
    help="Folder of the dataset (one for each --data), or that pictures are relative to.  [default: that of --labels]",
)
@click.option(
    "--near-duplicates",
    type=click.Choice(["keep", "group", "drop"]),
    default="group",
    help="group: a split drawn here keeps near copies of a picture together, one that the labels give is reported and "
    "marked where it does not; drop: also leave copies of val and test pictures out of train; keep: do not look.",
)
@click.option("--target", help="What the labels are, as every figure will name it.  [default: from the label file]")
@click.option(
    "--score-range", type=(float, float), help="Worst and best possible label.  [default: known for KonIQ-10k]"
)
@click.option(
    "--max-images", type=click.IntRange(3), help="Use only so many, each split in its proportion.  [default: all]"
)
@click.option("--skip-missing", is_flag=True, help="Go on without pictures that are not there.")
@click.option("--preset", type=click.Choice(list(PRESETS)), default="resnet50", help="The model.")
@click.option(
    "--start", type=FILE, help="Start from this checkpoint (of any known layout), with a new head.  [default: none]"
)
@click.option(
    "--trunk-weights",
    metavar="FILE|download|none",
    help=f"Where the trunk starts.  [default: {by_preset('trunk_weights')}]",
)
@click.option(
    "--height", type=int, help="Of the pictures; others are resized to cover and cropped.  [default: 768; tiny: 192]"
)
@click.option("--width", type=int, help="[default: 1024; tiny: 256]")
@click.option(
    "--outputs", type=click.Choice(["1", "5", "10"]), default="1", help="1: a score; more: the shares c1..cK."
)
@click.option("--epochs", type=click.IntRange(1), help=f"[default: {by_preset('epochs')}]")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help=f"Pictures in a step, over all GPUs.  [default: {by_preset('batch_size')}]",
)
@click.option("--lr", type=click.FloatRange(0, min_open=True), help=f"Peak rate.  [default: {by_preset('lr')}]")
@click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", help="sgd has momentum 0.9.")
@click.option("--weight-decay", type=click.FloatRange(0), default=0.01)
@click.option(
    "--warmup", type=click.FloatRange(0, 1), default=0.05, help="Part of all steps; a cosine to zero follows."
)
@click.option("--clip", type=click.FloatRange(0), default=1.0, help="Largest norm of a gradient; 0: any.")
@click.option(
    "--loss",
    help=f"{', '.join([*ON_SCORES, *ON_SHARES])} or l1+0.5*ranking and the like.  "
    f"[default: {by_preset('loss')}; with shares emd]",
)
@click.option("--margin", type=click.FloatRange(0), default=MARGIN, help="Of ranking, in the labels' deviations.")
@click.option("--flip/--no-flip", default=True, help="Mirror half of the pictures, anew in each epoch.")
@click.option(
    "--batch-norm",
    type=click.Choice(["auto", "frozen", "trained"]),
    default="auto",
    help="Statistics of a ResNet trunk; auto freezes those that came with weights.",
)
@click.option("--mixed-precision", type=click.Choice(["no", "bf16", "fp16"]), default="no")
@click.option("--cpu", is_flag=True, help="Leave GPUs alone.")
@click.option(
    "--workers", type=click.IntRange(0), default=min(8, os.cpu_count() or 1), help="Processes that decode pictures."
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Of weights, order, flips and a split not given.")
@click.option("--out", type=FOLDER, help="The run's folder.  [default: runs/PRESET-DATE-TIME]")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, or the newest; its own settings apply.")
@click.option(
    "--save-every", type=click.FloatRange(0), default=10.0, help="Minutes between saved states within an epoch."
)
@click.pass_context
def main(context: click.Context, /, **options: Any) -> None:
    """Train a MUSIQ model on pictures with quality labels, higher being better.

    Labels come from --data NAME --root DIR or from --labels FILE. The run's folder gets best.safetensors (by SRCC
    on the validation split), and at the end metrics.json and predictions.csv of the test split.
    """
    if options["list_data"]:
        click.echo(datasets.describe())
        return
    options["outputs"] = int(options["outputs"])
    if not (options["data"] or options["labels"] or options["resume"]):
        click.echo(NEEDS)
        return
    given = {name for name in options if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
    run = open_run(options, given)
    from musiq.training.surroundings import StopAskedError, open_log, show_progress, stop_on_signals, test

    if run.state.epoch >= run.settings.epochs and runs.scored(run.folder):
        click.echo(
            f"The run in {run.folder} is finished; its figures are in metrics.json, its model in best.safetensors."
        )
        return
    run.log = open_log(run)
    try:
        with stop_on_signals(run), show_progress(run.accelerator.is_main_process) as run.progress:
            train(run)
            test(run)
    except StopAskedError as stop:
        click.echo(f"{stop} Go on with: python train.py --resume --out {run.folder}", err=True)
        context.exit(130)
    click.echo(f"The best checkpoint is {run.folder / 'best.safetensors'}")


def open_run(options: dict[str, Any], given: set[str]) -> Run:
    """A new run, or the one to resume, with its folder written once everything is known to be right."""
    # Threads that wait by spinning slow a machine with other work on it several times; read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from musiq.training.surroundings import Run, agree_on_folder, start_accelerator

    settings = settle(options)
    # A job that may be stopped at any time has one command line: it begins the run where there is none yet.
    begin = not options["resume"] or bool(given & {"labels", "data"} and not runs.exists(options["out"]))
    if not begin:
        folder = options["out"] or runs.newest()
        saved, dataset = runs.read_run(folder)
        runs.check_same(saved, dataclasses.asdict(settings), given)
        settings = saved
    accelerator = start_accelerator(settings.mixed_precision, options["cpu"])

    def say(line: str) -> None:
        if accelerator.is_main_process:
            click.echo(line)

    if begin:
        folder = agree_on_folder(accelerator, options["out"], settings.preset)
        runs.check_new(folder)
        parse(settings.loss, settings.outputs)
        with accelerator.main_process_first():  # the others find its thumbnails
            dataset = open_dataset(options, folder, say)
    run = Run(accelerator, settings, dataset, folder, options["workers"], options["save_every"])
    accelerator.wait_for_everyone()  # before one process writes what the others look for
    if accelerator.is_main_process and begin:
        runs.write_run(folder, settings, dataset)
    run.state, run.parts = runs.load_state(folder)
    describe(run, say)
    return run


def describe(run: Run, say: Callable[[str], None]) -> None:
    """What is about to be trained, on what and where; and how the pictures are made to fit, judged by the first."""
    settings, device = run.settings, run.accelerator.device.type
    where = f"{run.accelerator.num_processes} x {device}" if run.accelerator.num_processes > 1 else device
    say(f"{settings.preset} for {settings.width}x{settings.height} on {where}: {run.dataset.counts()} pictures")
    say(
        f"target {run.dataset.target!r}, loss {settings.loss}, lr {settings.lr:g}, seed {settings.seed}, in {run.folder}"
    )
    with suppress(ImageError):  # it will be named where it is left out
        first = run.dataset.split("train")[0]
        _, how = prepare(first.path, settings.height, settings.width)
        if how:
            say(
                f"Pictures are made to fit: {first.image} is {how}. Another --height and --width would keep more of them."
            )


if __name__ == "__main__":
    main()
