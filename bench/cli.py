"""The `musiq-bench` command."""

from __future__ import annotations

import dataclasses
import datetime
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from musiq.cli import Command
from musiq.errors import MusiqError

from .candidates import Candidate, describe, find_models, reference_of, short_names
from .environment import describe as describe_environment
from .gates import offending
from .measure import Cell, Settings, rows, run_rounds
from .measure import Progress as Said
from .pictures import Labels, Pictures, choose
from .report import Report
from .table import WIDTH, caption, show
from .write import write

OFFENDED = 4  # exit code of a --fail- option that applied
PATH = click.Path(path_type=Path)


@click.command(cls=Command)
@click.option("--images", type=PATH, multiple=True, required=True, help="A folder of real pictures (or a picture).")
@click.option("--labels", type=PATH, help="Labels for them: a CSV with image,mos[,split] or KonIQ-10k's own files.")
@click.option(
    "--split", type=click.Choice(["train", "val", "test", "all"]), help="Labels to use. [test if there, else all]"
)
@click.option(
    "--models", type=PATH, multiple=True, help="Artefact, checkpoint or folder of them; again for more. [exports/]"
)
@click.option("--checkpoint", type=PATH, help="The PyTorch reference. [what each artefact's record names, if found]")
@click.option("--batch", type=click.IntRange(1), multiple=True, default=[1], show_default=True, help="Again for more.")
@click.option(
    "--calls", type=click.IntRange(1), default=100, show_default=True, help="Timed calls of each row, at least."
)
@click.option("--seconds", type=click.FloatRange(0), default=3, show_default=True, help="Timed seconds, at least.")
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Turns in which rows are measured."
)
@click.option(
    "--warmup", type=click.IntRange(0), default=10, show_default=True, help="Untimed calls in each round, and 1 s."
)
@click.option(
    "--max-images", type=click.IntRange(0), default=200, show_default=True, help="Pictures scored; 0 for all."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of each runtime. [what this process may use]")
@click.option("--timeout", type=click.FloatRange(1), default=3600, show_default=True, help="Seconds for a row's round.")
@click.option("--out", type=PATH, default="reports", show_default=True, help="Where report.json, .csv and .md go.")
@click.option("--fail-below-srcc", type=float, help="Exit 4 if a row's SRCC is lower: to the labels, else to PyTorch.")
@click.option("--fail-above-difference", type=float, help="Exit 4 if a score differs from PyTorch's by more.")
@click.pass_context
def main(context: click.Context, /, **options: Any) -> None:
    """Measure artefacts beside PyTorch: latency, images/s, and what they keep of the scores.

    Each model and batch size runs in a process of its own; one that fails is a row with its reason.

    \b
    musiq-bench --images photos/
    musiq-bench --images photos/ --labels labels.csv --models exports/model.onnx --batch 1 --batch 8
    """
    settings = Settings(
        device=options["device"],
        threads=options["threads"],
        batches=tuple(dict.fromkeys(options["batch"])),
        calls=options["calls"],
        seconds=options["seconds"],
        rounds=min(options["rounds"], options["calls"]),
        warmup_calls=options["warmup"],
        warmup_seconds=1.0 if options["warmup"] else 0.0,
        timeout_s=options["timeout"],
    )
    labels = Labels.read(options["labels"], options["split"]) if options["labels"] else None
    cells = plan(find_models(options["models"] or [Path("exports")]), options["checkpoint"], settings)
    with tempfile.TemporaryDirectory(prefix="musiq-bench-") as scratch:
        pictures = choose(options["images"], labels, options["max_images"], Path(scratch))
        report = _run(cells, pictures, labels, settings, options["images"])
    written = write(report, options["out"])
    console = Console()
    show(report, console if console.is_terminal else Console(width=WIDTH))
    click.echo(f"Written: {', '.join(map(str, written))}")
    _finish(context, report, options["fail_below_srcc"], options["fail_above_difference"])


def plan(models: Sequence[Candidate], checkpoint: Path | None, settings: Settings) -> list[Cell]:
    """The rows to measure: the references first, then the artefacts, each at every batch size."""
    chosen = describe(checkpoint) if checkpoint else None
    artefacts = [model for model in models if model.format != "pytorch"]
    settled = {artefact: reference_of(artefact, chosen) for artefact in artefacts}
    references = list(dict.fromkeys(reference for reference, _ in settled.values() if reference))
    alone = [model for model in [*([chosen] if chosen else []), *models] if model.format == "pytorch"]
    known = {reference.sha256 for reference in references}
    references += [model for model in dict.fromkeys(alone) if model.sha256 not in known]
    names = short_names([*references, *artefacts])
    cells = [Cell(names[it], it, batch, "reference", it) for it in references for batch in settings.batches]
    for it, (reference, doubt) in settled.items():
        cells += [Cell(names[it], it, batch, "candidate", reference, doubt) for batch in settings.batches]
    return cells


def _run(
    cells: Sequence[Cell], pictures: Pictures, labels: Labels | None, settings: Settings, folders: Sequence[Path]
) -> Report:
    environment = describe_environment()  # before anything runs: its load average is what the run found
    with progress(len(cells) * settings.rounds) as said:
        interrupted = run_rounds(cells, pictures, settings, said)
    wanted = [label for label in labels.of(pictures.files) if label is not None] if labels else None
    report = Report(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=shlex.join(["musiq-bench", *sys.argv[1:]]),
        environment=environment,
        settings=dataclasses.asdict(settings),
        pictures=pictures.describe(folders),
        labels=labels.describe(len(wanted)) if labels and wanted is not None else None,
        caption="",
        rows=rows(cells, pictures, wanted, settings),
        interrupted=interrupted,
    )
    report.caption = caption(report)
    return report


@contextmanager
def progress(steps: int) -> Iterator[Said]:
    """Show on stderr what is being done: a call with text says what, with "" that one of the steps is done."""
    console = Console(stderr=True)
    columns = (BarColumn(20), TextColumn("{task.completed:.0f}/{task.total:.0f}"), TimeElapsedColumn())
    bar = Progress(
        *columns,
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=steps)

        def said(text: str) -> None:
            bar.update(task, description=text, advance=0) if text else bar.advance(task)

        yield said


def _finish(context: click.Context, report: Report, least_srcc: float | None, most_difference: float | None) -> None:
    """End with the exit code that the run has earned."""
    offences = offending(report.rows, least_srcc, most_difference)
    for offence in offences:
        click.echo(offence, err=True)
    if report.interrupted:
        click.echo("Interrupted: the rows above are what was finished.", err=True)
        context.exit(130)
    if offences:
        context.exit(OFFENDED)
    if all(row.status != "ok" for row in report.rows):
        raise MusiqError(f"No model could be measured; the first: {report.rows[0].reason}")
