"""What a process becomes that has seen hundreds of sizes: whether its memory grows, and whether calls get slow.

`python -m musiq_bench.profiling.many_sizes model.onnx` prints it. Runtimes keep memory, plans and kernels for the shapes
that they have met, and no two images of this are of one size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np

from musiq import markdown
from musiq.errors import MusiqError
from musiq.runtimes.base import Runtime
from musiq.runtimes.registry import open_runtime
from musiq.terminal import Command, progress_bar
from musiq.timing import timed

from ..machine.environment import memory_mib
from ..plan.images import size_class
from .sizes import METAVAR, Size, parse_size, size_name

SLOW = 3
"""Times the median of its size class from which a call is told."""


@dataclass(frozen=True)
class SizedCall:
    """One call with one image, and the resident memory of the process after it."""

    size: Size
    ms: float
    memory_mib: float


def draw_sizes(count: int, least: Size, most: Size) -> list[Size]:
    """`count` different sizes (height, width), sides between those of `least` and `most` and small ones as frequent as
    large ones; always the same. Raises MusiqError where there are not so many."""
    draw, found = np.random.default_rng(0), dict[Size, None]()
    for _ in range(100 * count):
        height, width = (round(math.exp(draw.uniform(*np.log(sides)))) for sides in zip(least, most, strict=True))
        found[height, width] = None
        if len(found) == count:
            return list(found)
    raise MusiqError(f"There are no {count} sizes from {size_name(least)} to {size_name(most)}; give a larger --most.")


def measure(runtime: Runtime, sizes: Sequence[Size], after: partial[None] | None = None) -> list[SizedCall]:
    """A call with an image of noise for each size, in their order."""
    draw, calls = np.random.default_rng(0), []
    for height, width in sizes:
        image = draw.integers(0, 256, (1, height, width, 3), np.uint8)
        _, seconds = timed(partial(runtime, image))
        calls.append(SizedCall((height, width), 1e3 * seconds, memory_mib() or math.nan))
        if after:
            after()
    return calls


def memory_table(calls: Sequence[SizedCall]) -> str:
    """A Markdown table of the two halves of the calls, and their ratio."""
    middle = len(calls) // 2
    halves = [np.array([call.memory_mib for call in half]) for half in (calls[:middle], calls[middle:])]
    rows = []
    for name, of in (("median", np.median), ("most", np.max)):
        first, second = (float(of(half)) for half in halves)
        rows.append([name, f"{first:.0f}", f"{second:.0f}", f"{second / first:.2f}"])
    return markdown.table(["resident MiB", "first half", "second half", "ratio"], rows)


def class_table(calls: Sequence[SizedCall], after: int) -> str:
    """A Markdown table of the calls by size class: those from the call `after` on that took SLOW times the median."""
    classes: dict[str, list[int]] = {}
    for place in sorted(range(len(calls)), key=lambda place: math.prod(calls[place].size)):
        classes.setdefault(size_class(*calls[place].size), []).append(place)
    rows = []
    for name, places in classes.items():
        median = float(np.median([calls[place].ms for place in places]))
        late = [calls[place].ms for place in places if place >= after]
        slow = sum(ms > SLOW * median for ms in late)
        slowest = f"{max(late) / median:.2f}" if late else ""
        rows.append([name, str(len(places)), f"{median:.1f}", slowest, str(slow)])
    heading = ["size", "calls", "median ms", f"slowest after {after}, in medians", f"above {SLOW}"]
    return markdown.table(heading, rows)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(2), default=400, show_default=True, help="Sizes, an image of each.")
@click.option("--least", type=parse_size, metavar=METAVAR, default="240x180", show_default=True)
@click.option("--most", type=parse_size, metavar=METAVAR, default="1280x960", show_default=True)
@click.option("--after", type=click.IntRange(0), default=100, show_default=True, help="Calls until slow ones are told.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(1), show_default="what this process may use")
def main(model: Path, count: int, least: Size, most: Size, after: int, device: str, threads: int | None) -> None:
    """Print memory and times of a MODEL for any size over images of noise, no two of the same size, in one process."""
    with closing(open_runtime(model, device, threads)) as runtime, progress_bar(total=count) as bar:
        if not runtime.spec.any_size:
            raise MusiqError(f"{model} takes images of {runtime.spec.size_name} alone; give a model for any size.")
        calls = measure(runtime, draw_sizes(count, least, most), partial(bar.advance))
    click.echo(f"{model.name}, {count} images of {count} sizes:\n")
    click.echo(f"{memory_table(calls)}\n\n{class_table(calls, after)}")


if __name__ == "__main__":
    main()
