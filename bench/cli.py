"""The command `musiq-bench`: its options, and the steps of a run in their order."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from musiq.errors import MusiqError, check_installed
from musiq.published import checkpoint_path, model_path
from musiq.terminal import Command, FiniteRange

from .compare.reports import compare_and_exit
from .compare.thresholds import SpeedThreshold, Thresholds, failing
from .plan.cases import BASELINES, BenchSettings, Case, check_baselines, plan_cases
from .plan.duration import plan
from .plan.images import Labels, choose, find_labels
from .plan.models import default_models, find_models
from .report.schema import Report
from .report.table import show_in_terminal
from .report.write import write
from .run import BenchRun

BELOW_THRESHOLD = 4  # exit code of a --fail- option that applied
PATH = click.Path(path_type=Path)


@click.command(cls=Command, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--images", type=PATH, multiple=True, required=True, help="A folder of real images (or an image).")
@click.option(
    "--labels",
    show_default="the folder of --images, if it is a dataset's",
    help="Labels for them: a CSV with image,mos[,split], or a public dataset's folder as published.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    show_default="test if there, else all",
    help="Labels to use.",
)
@click.option(
    "--models",
    type=PATH,
    multiple=True,
    show_default="exports/, else the one that comes with musiq",
    help="Artifact, checkpoint, folder of them, or the name of a published model; again for more.",
)
@click.option(
    "--checkpoint",
    type=PATH,
    show_default="what each artifact's record names, if found",
    help="The PyTorch reference.",
)
@click.option(
    "--baseline",
    type=click.Choice(BASELINES),
    multiple=True,
    show_default="eager, where a checkpoint is found",
    help="PyTorch beside the artifacts: eager must be there, compile adds torch.compile, :fp16 and :bf16 add either with "
    "such weights, none is scored and not timed; again for more.",
)
@click.option("--batch", type=click.IntRange(1), multiple=True, default=[1], help="Again for more.")
@click.option("--calls", type=click.IntRange(1), default=100, help="Timed calls of each row, at least.")
@click.option("--seconds", type=FiniteRange(0), default=3, help="Timed seconds, at least.")
@click.option("--rounds", type=click.IntRange(1), default=3, help="Turns in which rows are measured.")
@click.option("--warmup", type=click.IntRange(0), default=10, help="Untimed calls in each round, and 1 s.")
@click.option("--max-images", type=click.IntRange(0), default=200, help="Images scored; 0 for all.")
@click.option(
    "--device",
    multiple=True,
    default=["auto"],
    show_default=True,
    help="auto, cpu, cuda:N, cuda-graph:N, tensorrt:N or cuda-compile:N; again for more, each for what can run there.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    show_default="what this process may use",
    help="CPU threads of each runtime.",
)
@click.option("--timeout", type=FiniteRange(1), default=3600, help="Seconds for a row's round.")
@click.option("--out", type=PATH, default="reports", help="Where reports, plots and measured.jsonl go.")
@click.option("--plan", is_flag=True, help="Say what would be measured and about how long it takes, and end.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out: its finished rounds are not measured again.")
@click.option(
    "--compare",
    type=(PATH, PATH),
    metavar="OLD NEW",
    is_eager=True,
    expose_value=False,
    callback=compare_and_exit,
    help="Measure nothing: say what changed beyond noise between two report.json, or folders of them.",
)
@click.option("--fail-below-srcc", type=float, help="Exit 4 if a row's SRCC is lower: to the labels, else to PyTorch.")
@click.option("--fail-above-difference", type=float, help="Exit 4 if a score differs from PyTorch's by more.")
@click.option(
    "--fail-slower-than",
    metavar="NAME:RATIO",
    help="Exit 4 if a row's p50 is above RATIO times that of NAME: baseline (PyTorch), a model, or its file.",
)
@click.pass_context
def main(context: click.Context, /, **given: Any) -> None:
    """Measure artifacts beside PyTorch: latency, images/s, and what they keep of the scores.

    Each model and batch size runs in a process of its own; one that fails is a row with its reason.

    \b
    musiq-bench --images photos/
    musiq-bench --images photos/ --labels labels.csv --models exports/model.onnx --batch 1 --batch 8
    """
    options = _options(**given)
    labels = find_labels(options.images, options.labels, options.split)
    cases = plan_cases(find_models(options.models), options.checkpoint, options.settings, options.baselines)
    check_baselines(options.baselines, cases)
    _check_scipy(labels, cases)
    if options.thresholds.speed is not None:
        options.thresholds.speed.check(cases)
    with tempfile.TemporaryDirectory(prefix="musiq-bench-") as scratch:
        images = choose(options.images, labels, options.max_images, Path(scratch))
        run = BenchRun(cases, images, labels, options.settings, options.images, options.out)
        if options.resume:
            run.resume()
        if options.plan:
            click.echo("\n".join(plan(cases, options.settings, images.files)))
            if labels and images.unlabelled:
                click.echo(
                    f"{images.unlabelled} of {images.found} images are left out: no label (split: {labels.split})."
                )
            return
        report = run.measure()
    written = write(report, options.out)
    show_in_terminal(report)
    click.echo(f"Written: {', '.join(map(str, written))}")
    _finish(context, report, options.thresholds)


@dataclass(frozen=True)
class BenchOptions:
    """What the command was asked for."""

    images: tuple[Path, ...]
    labels: str | None
    split: str | None
    models: tuple[Path, ...]
    checkpoint: Path | None
    baselines: tuple[str, ...]
    max_images: int
    out: Path
    plan: bool
    resume: bool
    settings: BenchSettings
    thresholds: Thresholds


def _options(
    *,
    images: tuple[Path, ...],
    labels: str | None,
    split: str | None,
    models: tuple[Path, ...],
    checkpoint: Path | None,
    baseline: tuple[str, ...],
    batch: tuple[int, ...],
    calls: int,
    seconds: float,
    rounds: int,
    warmup: int,
    max_images: int,
    device: tuple[str, ...],
    threads: int | None,
    timeout: float,
    out: Path,
    plan: bool,
    resume: bool,
    fail_below_srcc: float | None,
    fail_above_difference: float | None,
    fail_slower_than: str | None,
) -> BenchOptions:
    """The options as click gives them, each under its name. Raises MusiqError for a threshold that is none."""
    settings = BenchSettings(
        devices=tuple(dict.fromkeys(device)),
        threads=threads,
        batches=tuple(dict.fromkeys(batch)),
        calls=calls,
        seconds=seconds,
        rounds=min(rounds, calls),
        warmup_calls=warmup,
        warmup_seconds=1.0 if warmup else 0.0,
        timeout_s=timeout,
    )
    thresholds = _thresholds(fail_below_srcc, fail_above_difference, fail_slower_than)
    baselines = tuple(dict.fromkeys(baseline))
    models = tuple(map(model_path, models)) or default_models()
    checkpoint = checkpoint_path(checkpoint) if checkpoint else None
    return BenchOptions(
        images, labels, split, models, checkpoint, baselines, max_images, out, plan, resume, settings, thresholds
    )


def _thresholds(srcc: float | None, difference: float | None, slower: str | None) -> Thresholds:
    for option, value, sensible in (
        ("--fail-below-srcc", srcc, srcc is None or abs(srcc) <= 1),
        ("--fail-above-difference", difference, True),
    ):
        if value is not None and not (math.isfinite(value) and sensible):
            raise MusiqError(f"{option} {value:g} is no limit; give a number such as 0.99 or 0.1.")
    return Thresholds(srcc, difference, SpeedThreshold.parse(slower) if slower else None)


def _check_scipy(labels: Labels | None, cases: Sequence[Case]) -> None:
    """Correlations are computed last: raise MusiqError now where they would lack scipy then."""
    if labels is not None:
        check_installed(("scipy",), "musiq-bench correlates scores with labels and", "bench")
    elif find_spec("torch") and any(case.role == "reference" for case in cases):
        check_installed(("scipy",), "musiq-bench correlates scores with PyTorch's and", "bench")


def _finish(context: click.Context, report: Report, thresholds: Thresholds) -> None:
    """End with the exit code that the run has earned."""
    failures = failing(report.rows, thresholds)
    for failure in failures:
        click.echo(failure, err=True)
    if report.interrupted:
        click.echo(
            "Interrupted: the rows above are what was finished; the same command with --resume goes on.", err=True
        )
        context.exit(130)
    if failures:
        context.exit(BELOW_THRESHOLD)
    if all(row.status != "ok" for row in report.rows):
        raise MusiqError(f"No model could be measured; the first: {report.rows[0].reason}")
