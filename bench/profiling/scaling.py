"""Scaling of time and memory with the work: images a call, pixels an image, images a run.

`results/growth.sh IMAGES` makes the artifacts and reports that this reads, and the figures of docs/benchmarks.md.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musiq import markdown
from musiq.errors import MusiqError, check_installed
from musiq.files import atomic_write
from musiq.images.find import find_images
from musiq.terminal import Command
from musiq.timing import timed

from ..machine.environment import describe
from ..report.plot_style import log_ticks
from ..report.read import read
from ..report.schema import ReportRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COUNTS = (1, 10, 100, 1_000, 10_000)


@dataclass(frozen=True)
class ScoringRun:
    """`musiq-score` from its start to its end over so many files on disk."""

    images: int
    seconds: float
    peak_memory_mib: float


@dataclass(frozen=True)
class BatchCost:
    """A runtime over one batch: the median of its calls, and the most that its process ever held. `status` other than
    "ok": there are no figures, and `reason` says why."""

    name: str
    megapixels: float
    batch: int
    ms: float | None
    peak_memory_mib: float | None
    status: str
    reason: str


def score_many(model: Path, images: Path, counts: Sequence[int]) -> list[ScoringRun]:
    """Run `musiq-score` over `counts` images, those of `images` again and again under names of their own."""
    files = [file.resolve() for file in find_images([images])]
    if not files:
        raise MusiqError(f"There are no images in {images}; give a folder with some.")
    runs = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            links = Path(folder) / "images"
            links.mkdir()
            for number, file in enumerate(islice(cycle(files), count)):
                (links / f"{number:06}{file.suffix}").symlink_to(file)
            runs.append(_run(model, links, Path(folder) / "scores.csv", count))
        click.echo(f"{count} images: {runs[-1].seconds:.1f} s, {runs[-1].peak_memory_mib:.0f} MiB", err=True)
    return runs


def _run(model: Path, links: Path, out: Path, count: int) -> ScoringRun:
    command = [sys.executable, "-c", "from musiq.cli import main; main()", str(links), "--model", str(model)]

    def score() -> tuple[int, int]:
        process = subprocess.Popen([*command, "--device", "cpu", "--out", str(out)], stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage.ru_maxrss

    (code, peak_kib), seconds = timed(score)
    if code != 0:
        raise MusiqError(f"musiq-score over {count} images ended with exit code {code}: run it by itself.")
    return ScoringRun(count, seconds, peak_kib / 1024)


def calls(rows: Sequence[ReportRow]) -> list[BatchCost]:
    return [
        BatchCost(
            f"{row.format} {row.precision}",
            (row.width or 0) * (row.height or 0) / 1e6,
            row.batch,
            row.latency_ms.p50 if row.latency_ms else None,
            row.peak_memory_mib,
            row.status,
            row.reason,
        )
        for row in rows
    ]


Series = dict[str, list[tuple[float, float]]]
"""Lines by name, each of points (across, up)."""


def draw(over_batch: Sequence[BatchCost], over_size: Sequence[BatchCost], runs: Sequence[ScoringRun]) -> bytes:
    """A PNG: time above, memory below; over the batch, the megapixels and the images of a run, from left to right."""
    import matplotlib
    from matplotlib.figure import Figure

    from ..report.plots import STYLE

    pairs: dict[str, tuple[Series, Series]] = {
        "batch size": _series(over_batch, [call.batch for call in over_batch]),
        "megapixels, batch 1": _series(over_size, [call.megapixels for call in over_size]),
        "images in one run": (
            {"musiq-score": [(run.images, run.seconds * 1e3 / run.images) for run in runs]},
            {"musiq-score": [(run.images, run.peak_memory_mib) for run in runs]},
        ),
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 6), layout="constrained")
        axes = figure.subplots(2, len(pairs))
        for column, (label, (times, memory)) in enumerate(pairs.items()):
            colours = {name: f"C{number}" for number, name in enumerate(times | memory)}
            _panel(axes[0][column], times, colours)
            _panel(axes[1][column], memory, colours)
            axes[1][column].set_xlabel(label)
        axes[0][0].set_ylabel("ms an image")
        axes[1][0].set_ylabel("peak memory of the process, MiB")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150, facecolor="white")
        return file.getvalue()


def _series(found: Sequence[BatchCost], across: Sequence[float]) -> tuple[Series, Series]:
    """Milliseconds an image, and memory, of the calls that have figures."""
    times: Series = {}
    memory: Series = {}
    for call, at in zip(found, across, strict=True):
        if call.ms is not None:
            times.setdefault(call.name, []).append((at, call.ms / call.batch))
        if call.peak_memory_mib is not None:
            memory.setdefault(call.name, []).append((at, call.peak_memory_mib))
    return times, memory


def _panel(axes: Axes, series: Series, colours: dict[str, str]) -> None:
    for name, line in series.items():
        axes.plot(*zip(*line, strict=True), "o-", color=colours[name], markersize=4, linewidth=1.4, label=name)
    points = [point for line in series.values() for point in line]
    if points:
        axes.set_xscale("log")
        axes.set_yscale("log")
        at = sorted({across for across, _ in points})
        axes.set_xticks(at, [f"{each:.2g}" if each < 100 else f"{each:,.0f}" for each in at])
        axes.minorticks_off()
        log_ticks(axes.yaxis, [up for _, up in points])
        axes.legend(frameon=False)
    axes.grid(True)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--batches", type=click.Path(path_type=Path), help="A report of musiq-bench over batch sizes.")
@click.option("--sizes", type=click.Path(path_type=Path), help="One over image sizes.")
@click.option("--model", type=click.Path(path_type=Path), help="For musiq-score, with --images.")
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="Images, repeated as often as needed.")
@click.option("--count", type=click.IntRange(1), multiple=True, default=COUNTS, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="growth.json; growth.png goes beside it.")
def main(
    batches: Path | None, sizes: Path | None, model: Path | None, images: Path | None, count: Sequence[int], out: Path
) -> None:
    """Gather how time and memory grow into one file and one plot."""
    if (model is None) != (images is None):
        raise MusiqError("--model and --images belong together: the first scores the second.")
    check_installed(("matplotlib",), "The plot beside the figures", "bench")
    over_batch = calls(read(batches).rows) if batches else []
    of_one_size = [row for row in read(sizes).rows if row.width] if sizes else []
    over_size = sorted(calls(of_one_size), key=lambda call: call.megapixels)
    runs = score_many(model, images, count) if model and images else []
    values: dict[str, Any] = {
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "environment": describe(),
        "over_batch": [asdict(call) for call in over_batch],
        "over_size": [asdict(call) for call in over_size],
        "runs": [asdict(run) for run in runs],
    }
    with atomic_write(out) as part:
        part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    with atomic_write(out.with_suffix(".png")) as part:
        part.write_bytes(draw(over_batch, over_size, runs))
    click.echo(tables(over_batch, over_size, runs))


def tables(over_batch: Sequence[BatchCost], over_size: Sequence[BatchCost], runs: Sequence[ScoringRun]) -> str:
    """Markdown tables of all that was measured."""
    found = []
    if over_batch:
        found.append(_cost_table("batch", over_batch, [str(cost.batch) for cost in over_batch]))
    if over_size:
        found.append(_cost_table("megapixels", over_size, [f"{cost.megapixels:.2f}" for cost in over_size]))
    if runs:
        cells = [
            [
                f"{run.images}",
                f"{run.seconds:.1f}",
                f"{run.seconds * 1e3 / run.images:.1f}",
                f"{run.peak_memory_mib:.0f}",
            ]
            for run in runs
        ]
        found.append(markdown.table(["images", "s", "ms an image", "peak MiB"], cells))
    return "\n\n".join(found)


def _cost_table(heading: str, costs: Sequence[BatchCost], across: Sequence[str]) -> str:
    rows = []
    for cost, at in zip(costs, across, strict=True):
        ms = f"{cost.ms / cost.batch:.1f}" if cost.ms else f"{cost.status}: {cost.reason}"
        rows.append([cost.name, at, ms, f"{cost.peak_memory_mib:.0f}" if cost.peak_memory_mib else ""])
    return markdown.table(["", heading, "ms an image", "peak MiB"], rows)


if __name__ == "__main__":
    main()
