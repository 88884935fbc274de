"""The cost of each stage between an image's file and its score: time and new memory.

`python -m musiq_bench.profiling.stages IMAGES --model model.onnx` prints the table of docs/benchmarks.md. New
memory tells copies: a stage that makes none needs none.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from musiq import markdown
from musiq.errors import MusiqError
from musiq.images.decode import decode
from musiq.images.find import find_images
from musiq.images.fit import fit
from musiq.runtimes.base import Runtime
from musiq.runtimes.registry import open_runtime
from musiq.scoring.plan import Plan
from musiq.scoring.prefetch import ImageBatch, PreparedImage
from musiq.terminal import Command
from musiq.timing import timed

from ..report.latency import median_and_range
from .sizes import Size, size_for, size_name, size_option

Stages = dict[str, float]
"""By stage, in their order."""

Watch = Callable[[Callable[[], Any]], tuple[Any, float]]
"""Calls something: what that gave, and what it cost."""


def milliseconds(call: Callable[[], Any]) -> tuple[Any, float]:
    result, seconds = timed(call)
    return result, 1e3 * seconds


def new_bytes(call: Callable[[], Any]) -> tuple[Any, float]:
    """The most that Python, NumPy and OpenCV held at one time of the call beyond what they held before.

    What a runtime allocates for itself is not seen.
    """
    tracemalloc.start()
    result = call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, float(most)


def of_batch(files: Sequence[Path], runtime: Runtime, size: Size, watch: Watch) -> Stages:
    """The cost of each stage for these images together: the calls that `Scorer` makes, one after the other."""
    costs = dict.fromkeys(("read", "decode", "fit", "gather", "model"), 0.0)
    ready = []

    def watched(stage: str, call: Callable[[], Any]) -> Any:
        result, cost = watch(call)
        costs[stage] += cost
        return result

    for place, file in enumerate(files):
        data = watched("read", file.read_bytes)
        decoded = watched("decode", partial(decode, data))
        image, fitted = watched("fit", partial(fit, decoded, *size))
        ready.append(PreparedImage(place, str(file), image, Plan(0, *size), fitted))
    batch = watched("gather", lambda: ImageBatch(ready))
    watched("model", lambda: runtime.run(batch.images))
    return costs


def measure(files: Sequence[Path], runtime: Runtime, size: Size, batch: int) -> tuple[list[Stages], list[Stages]]:
    """Milliseconds and new bytes of an image in each stage, once for each whole batch of the files, made to fit `size`."""
    groups = [files[start : start + batch] for start in range(0, len(files) - batch + 1, batch)]
    if not groups:
        raise MusiqError(f"There are {len(files)} images for a batch of {batch}; give more, or a smaller --batch.")
    of_batch(groups[0], runtime, size, milliseconds)  # the first call of a runtime is none like the others
    found: list[list[Stages]] = []
    for watch in (milliseconds, new_bytes):
        each = [of_batch(group, runtime, size, watch) for group in groups]
        found.append([{stage: cost / batch for stage, cost in costs.items()} for costs in each])
    return found[0], found[1]


def cost_table(ms: Sequence[Stages], new: Sequence[Stages], image_bytes: int) -> str:
    """A Markdown table of medians over the batches, the times with their 10th and 90th percentiles."""
    rows = []
    for stage in ms[0]:
        images = float(np.median([costs[stage] for costs in new])) / image_bytes
        rows.append([stage, median_and_range([costs[stage] for costs in ms]), f"{images:.2f}"])
    return markdown.table(["stage", "ms an image", "new memory, in images"], rows)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--model", required=True, type=click.Path(path_type=Path))
@size_option("Of the images")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--max-images", type=click.IntRange(1), default=100, show_default=True)
def main(images: Sequence[Path], model: Path, size: Size | None, batch: int, max_images: int) -> None:
    """Print time and new memory of each stage that IMAGES (files or folders) go through, one stage after the other.

    `musiq-score` decodes in other threads while the model works; here nothing overlaps, and decoding has one thread.
    """
    cv2.setNumThreads(1)
    runtime = open_runtime(model, "cpu")
    files = find_images(images)[:max_images]
    height, width = size_for(runtime.spec, size)
    ms, new = measure(files, runtime, (height, width), batch)
    image_bytes = height * width * 3
    said = f"{size_name((height, width))}, {image_bytes / 1e6:.2f} MB"
    click.echo(f"{len(ms) * batch} images, batch {batch}, one image as {model.name} takes it: {said}\n")
    click.echo(cost_table(ms, new, image_bytes))


if __name__ == "__main__":
    main()
