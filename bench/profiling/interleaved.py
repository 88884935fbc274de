"""Comparing models in turns in one process: how many times as fast each is as the first, whatever else the machine does.

`python -m musiq_bench.profiling.interleaved pyiqa musiq-fp32.onnx musiq-bf16.xml --images photos/` prints a table. A
machine that other work slows down slows the calls of a turn alike, so their ratios hold where milliseconds do not.
`musiq-bench` gives each model a process of its own, and says what memory it takes and what becomes of the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import click
import numpy as np

from musiq import markdown
from musiq.errors import MusiqError
from musiq.hardware import available_cpus
from musiq.images.find import evenly
from musiq.images.opencv import without_decoder_noise
from musiq.runtimes.base import Images, Runtime
from musiq.runtimes.registry import open_runtime
from musiq.terminal import Command, progress_bar
from musiq.timing import in_turns

from ..plan.images import choose, decode_all
from ..report.latency import median_and_range

PYIQA = "pyiqa"
"""Instead of a file: the MUSIQ of that package in eager PyTorch, with random weights."""

Call = Callable[[Images], object]


def speed_table(names: Sequence[str], batches: Sequence[int], seconds: Sequence[Sequence[float]]) -> str:
    """A Markdown table: medians for each image, and the median over the turns of how many times as fast each was as the
    first in the same turn, with the 10th and 90th percentiles."""
    per_image = [np.array(taken) / batch for taken, batch in zip(seconds, batches, strict=True)]
    rows = [
        [name, str(batch), f"{np.median(each) * 1e3:.1f}", median_and_range(per_image[0] / each)]
        for name, batch, each in zip(names, batches, per_image, strict=True)
    ]
    return markdown.table(["model", "batch", "ms an image", "times as fast as the first"], rows)


def open_pyiqa(threads: int) -> Call:
    """pyiqa's own model: uint8 (N, H, W, 3) to its scores. Raises MusiqError where it is not installed."""
    try:
        import torch
        from pyiqa.archs.musiq_arch import MUSIQ  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as problem:
        raise MusiqError(
            f"pyiqa cannot be imported ({problem}): install it (pip install pyiqa; its licence forbids commercial use), "
            "or leave it out."
        ) from problem
    torch.set_num_threads(threads)
    model = MUSIQ(pretrained=False).eval()

    def call(images: Images) -> object:
        with torch.inference_mode():  # float32 (N, 3, H, W) of 0-1 is what pyiqa's own loader hands over
            return model(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).numpy()

    return call


def in_order(folder: Path, first: int) -> list[Path]:
    """The images of a folder, the `first` ones evenly out of all of it: they are taken unless they are broken."""
    files = choose([folder], None, 0, scratch=Path()).files
    chosen = evenly(files, first)
    return chosen + sorted(set(files) - set(chosen))


def batch_of(files: Sequence[Path], size: tuple[int, int], batch: int) -> Images:
    """The first `batch` images that can be read, fitted to `size` (height, width); says on stderr which could not.
    Raises MusiqError where there are fewer."""
    found = []
    with without_decoder_noise(), closing(decode_all(files, *size)) as decoded:
        for path, image, how in decoded:
            if image is None:
                click.echo(f"{path}: {how}", err=True)
            else:
                found.append(image)
            if len(found) == batch:
                return np.stack(found)
    raise MusiqError(f"There are {len(found)} images for a batch of {batch}; give more, or a smaller --batch.")


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", nargs=-1, required=True)
@click.option("--images", required=True, type=click.Path(path_type=Path), help="A folder of real images, or one.")
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, default=(1,), show_default=True)
@click.option("--turns", type=click.IntRange(1), default=14, show_default=True)
@click.option("--threads", type=click.IntRange(1), show_default="what this process may use")
def main(models: Sequence[str], images: Path, batches: Sequence[int], turns: int, threads: int | None) -> None:
    """Print how many times as fast as the first of MODELS the others are on this CPU, in turns in one process.

    MODELS are artifacts and checkpoints, or the word pyiqa for the eager MUSIQ of that package, with random weights, on
    images of the other models' size. The first with the first --batch is what the rest is compared with.
    """
    cpus = threads or available_cpus()
    with ExitStack() as opened:
        runtimes: list[Runtime | None] = [
            None if name == PYIQA else opened.enter_context(closing(open_runtime(Path(name), "cpu", threads)))
            for name in models
        ]
        sizes = [(runtime.spec.height, runtime.spec.width) for runtime in runtimes if runtime]
        if not sizes:
            raise MusiqError(f"Only {PYIQA} is given; give a model beside it, whose height and width its images get.")
        files = in_order(images, max(batches))
        decoded: dict[tuple[int, int], Images] = {}
        names, counts, calls = [], [], []
        for name, runtime in zip(models, runtimes, strict=True):
            call: Call = runtime.run if runtime else open_pyiqa(cpus)
            size = (runtime.spec.height, runtime.spec.width) if runtime else sizes[0]
            if size not in decoded:
                decoded[size] = batch_of(files, size, max(batches))
            for batch in batches:
                names.append(name)
                counts.append(batch)
                calls.append(partial(call, decoded[size][:batch]))
        with progress_bar(total=turns) as bar:
            seconds = in_turns(calls, turns, after_turn=bar.advance)
    click.echo(f"{turns} turns of {len(calls)} calls, {cpus} threads:\n")
    click.echo(speed_table(names, counts, seconds))


if __name__ == "__main__":
    main()
