"""Train a MUSIQ model on labelled images: one visible loop, on a CPU, a GPU, or several by `accelerate launch`.

This file is the loop and the command; musiq/training has the parts: recipe, initial_model, model_wrappers, objective,
optimizer, epoch, report.
"""

from __future__ import annotations

import dataclasses
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musiq.datasets import public
from musiq.datasets.load import DataOptions, Origin, open_dataset
from musiq.errors import ImageError, check_installed
from musiq.images.decode import prepare
from musiq.presets import PRESETS
from musiq.terminal import Command, FiniteRange, progress_bar
from musiq.training import run_folder
from musiq.training.losses import parse
from musiq.training.recipe import Recipe, recipe_from, recipe_options

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
    from musiq.training.epoch import end_epoch, epoch_batches, record_step
    from musiq.training.initial_model import prepare_learner, set_train_mode
    from musiq.training.objective import Objective, targets_of
    from musiq.training.optimizer import learning_rate, set_rates
    from musiq.training.run import save_if_due, save_state

    accelerator, recipe, state = run.accelerator, run.recipe, run.state
    items, size = run.train_items, run.step_images
    per_epoch = len(items) // size
    steps = per_epoch * recipe.epochs
    learner = prepare_learner(run)
    targets = targets_of(items, learner.model.spec, accelerator.device)
    objective = Objective(accelerator, recipe, targets, share=size // accelerator.num_processes)
    done = state.epoch * per_epoch + state.step

    with progress_bar("train", steps, done=done, quiet=not run.is_main) as bar:
        while state.epoch < recipe.epochs:
            bar.tell(f"epoch {state.epoch + 1}/{recipe.epochs}")
            set_train_mode(learner.model, state.frozen_norms)
            for images, indices in epoch_batches(run, size):
                step = state.epoch * per_epoch + state.step
                rate = learning_rate(step, steps, recipe.lr, recipe.warmup)
                set_rates(learner.optimizer, rate)
                loss = objective.backward(learner.wrapped, images, indices, step)
                if recipe.clip:
                    accelerator.clip_grad_norm_(learner.wrapped.parameters(), recipe.clip)
                learner.step()
                record_step(run, step, loss, rate)
                bar.advance()
                if state.step < per_epoch:
                    save_if_due(run, learner)
            end_epoch(run, learner, per_epoch, size)
            save_state(run, learner)
    if run.maps is not None:
        run.maps.remove()


CONTEXT = {"show_default": True, "max_content_width": 110, "help_option_names": ["-h", "--help"]}
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(cls=Command, context_settings=CONTEXT)
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
    "--split",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A CSV image,split (train, val, test) in the place of the labels' own split.",
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
@click.option(
    "--skip-missing",
    is_flag=True,
    help="Go on without images that are not there; of a run to resume, without a tenth of a split at most.",
)
@recipe_options
@click.option("--cpu", is_flag=True, help="Leave GPUs alone.")
@click.option(
    "--workers", type=click.IntRange(0), default=min(8, os.cpu_count() or 1), help="Processes that decode images."
)
@click.option(
    "--cache-frozen",
    is_flag=True,
    help="With --freeze: compute what the frozen part makes of each image and its mirror image once, into a file in the "
    "run's folder that is removed at the end. Faster on CPUs, and the same scores but for rounding.",
)
@click.option("--out", type=FOLDER, help="The run's folder.  [default: runs/PRESET-DATE-TIME]")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="auto",
    metavar="[auto|DIR]",
    help="Go on with the run in DIR, or (auto) in --out, or the newest one that can be read; its own settings apply.",
)
@click.option("--save-every", type=FiniteRange(0), default=10.0, help="Minutes between saved states within an epoch.")
@click.pass_context
def main(context: click.Context, /, **options: Any) -> None:
    """Train a MUSIQ model on images with quality labels, higher being better.

    Labels come from --data NAME --root DIR or from --labels FILE. The run's folder gets best.safetensors (by SRCC
    on the validation split), and at the end metrics.json, predictions.csv, MODEL_CARD.md and curve.png.
    """
    if options["list_data"]:
        click.echo(public.describe())
        return
    if not (options["data"] or options["labels"] or options["resume"]):
        click.echo(NEEDS)
        return
    needed = ("torch", "torchvision", "accelerate", "safetensors", "einops", "scipy")
    check_installed(needed, "train.py trains with PyTorch and", "train")
    run = open_run(Options.of(context))
    from musiq.training.report import report_test
    from musiq.training.run import StopAskedError, explain_shortages, open_log, stop_on_signals

    if run.is_finished:
        click.echo(
            f"The run in {run.folder} is finished; its figures are in metrics.json, its model in best.safetensors."
        )
        return
    run.log = open_log(run)
    try:
        with stop_on_signals(run), explain_shortages(run):
            train(run)
            report_test(run)
            # A process that ends while others still work, or with its connections open, takes them all down.
            run.accelerator.wait_for_everyone()
            run.accelerator.end_training()
    except StopAskedError as stop:
        click.echo(f"{stop} Go on with: python train.py --resume --out {run.folder}", err=True)
        context.exit(130)
    if run.is_main:
        click.echo(f"The best checkpoint is {run.folder / 'best.safetensors'}")


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        recipe: What decides the weights.
        data: Which images.
        cpu: Leave GPUs alone.
        workers: Processes that decode images.
        save_every: Minutes between saved states within an epoch.
        cache_frozen: Keep the maps of the trunk's frozen part in a file.
        out: The run's folder; None: a new one, named after preset and time.
        resume: None: a new run; "auto": that in `out`, or the newest; else the folder of a run.
        given: Names of the options that the command line or a recipe file gives.
    """

    recipe: Recipe
    data: DataOptions
    cpu: bool
    workers: int
    save_every: float
    cache_frozen: bool
    out: Path | None
    resume: str | None
    given: frozenset[str]

    @classmethod
    def of(cls, context: click.Context) -> Options:
        """Those of a command that was just parsed."""
        values = context.params
        sources = click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.DEFAULT_MAP
        given = frozenset(name for name in values if context.get_parameter_source(name) in sources)
        own = {name: values[name] for name in ("cpu", "workers", "save_every", "cache_frozen", "out", "resume")}
        data = DataOptions(**{field.name: values[field.name] for field in dataclasses.fields(DataOptions)})
        return cls(recipe_from(values), data, **own, given=given)


def open_run(options: Options) -> Run:
    """A new run, or the one to resume, with its folder written once everything is known to be right."""
    # Threads that wait by spinning slow a machine with other work on it several times; read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    folder = options.out if options.resume in (None, "auto") else Path(options.resume)
    # A job that may be stopped at any time has one command line: it begins the run where there is none yet.
    if not options.resume or (options.given & {"labels", "data"} and not run_folder.exists(folder)):
        run = begin_run(options, folder)
    else:
        run = resume_run(options, folder or run_folder.newest(echo))
    describe(run)
    return run


def begin_run(options: Options, folder: Path | None) -> Run:
    """A new run, whose folder gets the recipe and the labels with their splits."""
    from musiq.training.initial_model import build_model
    from musiq.training.model_card import terms_of
    from musiq.training.run import Run, agree_on_folder, check_room, check_steps, start_accelerator

    recipe, data = options.recipe, options.data
    accelerator = start_accelerator(recipe.mixed_precision, options.cpu)
    folder = agree_on_folder(accelerator, folder, recipe.preset)
    run_folder.check_new(folder)
    parse(recipe.loss, recipe.outputs)
    with accelerator.main_process_first():  # the others find its thumbnails
        dataset = open_dataset(data, folder, echo)
    run = Run(accelerator, recipe, dataset, folder, options.workers, options.save_every, options.cache_frozen)
    check_steps(run, begins=True)
    check_room(run)
    run.initial = build_model(recipe, dataset)  # or an error, before there is a run that could not go on
    accelerator.wait_for_everyone()  # before one process writes what the others look for
    if accelerator.is_main_process:
        run_folder.write_run(folder, recipe, dataset, data.terms or terms_of(data.data), Origin.of(data))
    return run


def resume_run(options: Options, folder: Path) -> Run:
    """The run in a folder, with its own recipe and labels, where it stands. What it needs from here on was looked for."""
    from musiq.training.run import Run, check_images, check_room, check_steps, start_accelerator

    recipe, dataset = run_folder.read_run(folder)
    run_folder.check_same(recipe, options.recipe, options.given)
    run_folder.check_same_data(folder, options.data, options.given)
    accelerator = start_accelerator(recipe.mixed_precision, options.cpu)
    run = Run(accelerator, recipe, dataset, folder, options.workers, options.save_every, options.cache_frozen)
    run.state, run.parts = run_folder.load_state(folder, echo)
    if not run.is_finished:
        check_images(run, options.data.skip_missing)
        check_steps(run, begins=False)
        check_room(run)
    return run


def echo(line: str) -> None:
    """Print a line once, not in every process of accelerate launch; before there is an accelerator to ask."""
    if int(os.environ.get("RANK", 0)) == 0:
        click.echo(line)


def describe(run: Run) -> None:
    """What is about to be trained, on what and where; and how the images are made to fit, judged by the first."""
    recipe, device = run.recipe, run.accelerator.device.type
    where = f"{run.accelerator.num_processes} x {device}" if run.accelerator.num_processes > 1 else device
    echo(f"{recipe.preset} for {recipe.width}x{recipe.height} on {where}: {run.dataset.counts()} images")
    echo(f"target {run.dataset.target!r}, loss {recipe.loss}, lr {recipe.lr:g}, seed {recipe.seed}, in {run.folder}")
    with suppress(ImageError):  # it will be named where it is left out
        first = run.dataset.split("train")[0]
        _, how = prepare(first.path, recipe.height, recipe.width)
        if how:
            echo(
                f"Images are made to fit: {first.image} is {how}. Another --height and --width would keep more of them."
            )


if __name__ == "__main__":
    main()
