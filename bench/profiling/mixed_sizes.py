"""A folder of images in many sizes, from its files to its scores: images/s of `Scorer`, beside pyiqa's eager loop.

`python -m musiq_bench.profiling.mixed_sizes pyiqa musiq.onnx --images folder/` prints a table. The folder is scored in
chunks, each by every model before the next, so that whatever else the machine does slows all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import numpy as np

from musiq import markdown
from musiq.errors import MusiqError
from musiq.hardware import available_cpus
from musiq.images.find import evenly, find_images
from musiq.scoring.scorer import Scorer
from musiq.terminal import Command, progress_bar
from musiq.timing import timed

from ..report.latency import median_and_range
from .pyiqa_model import PYIQA, open_pyiqa_for_files

Score = Callable[[Sequence[Path]], list[float]]
"""Files to their scores; NaN for one without."""


@dataclass
class Scored:
    """What a model took for each chunk, and the scores of all images."""

    name: str
    score: Score
    seconds: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


def open_score(name: str, threads: int | None, opened: ExitStack) -> Score:
    """How a model scores files: an artifact or checkpoint as `Scorer` does, "pyiqa" or "pyiqa=WEIGHTS" one by one."""
    word, _, weights = name.partition("=")
    if word == PYIQA:
        one = open_pyiqa_for_files(threads or available_cpus(), Path(weights) if weights else None)
        return lambda files: [one(file) for file in files]
    scorer = opened.enter_context(closing(Scorer(name, "cpu", threads=threads)))

    def score(files: Sequence[Path]) -> list[float]:
        rows = list(scorer.score_many(files))
        for row in rows:
            if row.error:
                click.echo(f"{row.path}: {row.error}", err=True)
        return [float("nan") if row.score is None else row.score for row in rows]

    return score


def measure(models: Sequence[Scored], files: Sequence[Path], chunk: int, after: Callable[[], object]) -> None:
    """Score `files` chunk by chunk with every model, in another order each time, after the first chunk once untimed."""
    for model in models:
        model.score(files[:chunk])
    draw = np.random.default_rng(0)
    for start in range(0, len(files), chunk):
        part = files[start : start + chunk]
        for place in draw.permutation(len(models)):
            scores, seconds = timed(partial(models[place].score, part))
            models[place].scores += scores
            models[place].seconds.append(seconds)
        after()


def throughput_table(models: Sequence[Scored]) -> str:
    """A Markdown table: images/s over the whole, and the median over the chunks of how many times as fast each was as the
    first, with the 10th and 90th percentiles; and how far its scores are from the first's."""
    first, rows = models[0], []
    for model in models:
        speed = len(model.scores) / sum(model.seconds)
        whole = sum(first.seconds) / sum(model.seconds)
        chunks = median_and_range(np.array(first.seconds) / np.array(model.seconds))
        apart = np.abs(np.array(model.scores) - np.array(first.scores))
        largest = "" if np.isnan(apart).all() else f"{np.nanmax(apart):.1e}"
        rows.append(
            [model.name, f"{speed:.2f}", f"{whole:.2f}", chunks, largest, str(int(np.isnan(model.scores).sum()))]
        )
    heading = ["model", "images/s", "times as fast as the first", "in each chunk", "scores differ by", "not scored"]
    return markdown.table(heading, rows)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", nargs=-1, required=True)
@click.option("--images", required=True, type=click.Path(exists=True, path_type=Path), help="A folder of images.")
@click.option(
    "--max-images", type=click.IntRange(0), default=0, show_default=True, help="Evenly out of all; 0 for all."
)
@click.option(
    "--chunk", type=click.IntRange(1), default=20, show_default=True, help="Images that a model scores at a time."
)
@click.option("--threads", type=click.IntRange(1), show_default="what this process may use")
def main(models: Sequence[str], images: Path, max_images: int, chunk: int, threads: int | None) -> None:
    """Print images/s of MODELS over a folder on this CPU, reading and decoding included, in turns in one process.

    MODELS are artifacts and checkpoints, which score as musiq-score does, and the word pyiqa for that package's eager
    MUSIQ with random weights, pyiqa=WEIGHTS with those of a file, which decodes and scores one image after another.
    """
    files = evenly(find_images(images), max_images)
    if len(files) < chunk:
        raise MusiqError(f"There are {len(files)} images for chunks of {chunk}; give more, or a smaller --chunk.")
    with ExitStack() as opened:
        found = [Scored(name, open_score(name, threads, opened)) for name in models]
        with progress_bar(total=-(-len(files) // chunk)) as bar:
            measure(found, files, chunk, bar.advance)
    click.echo(f"{len(files)} images in chunks of {chunk}, {threads or available_cpus()} threads:\n")
    click.echo(throughput_table(found))


if __name__ == "__main__":
    main()
