"""Comparing models in turns in one process: how many times as fast each is as the first, whatever else the machine does.

`python -m musiq_bench.profiling.interleaved pyiqa musiq-fp32.onnx musiq-bf16.xml --images photos/` prints a table; with
`--size 512x288 --size 1024x768` sizes stand down and models across. A machine that other work slows down slows the calls
of a turn alike, so their ratios hold where milliseconds do not.
`musiq-bench` gives each model a process of its own, and says what memory it takes and what becomes of the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from musiq import markdown
from musiq.artifact import read_record
from musiq.errors import MusiqError
from musiq.file_formats import CHECKPOINT_ENDINGS
from musiq.files import sha256
from musiq.hardware import available_cpus
from musiq.images.find import evenly
from musiq.images.opencv import without_decoder_noise
from musiq.runtimes.base import Images
from musiq.runtimes.registry import open_runtime
from musiq.spec import USUAL_SIZE
from musiq.terminal import Command, progress_bar
from musiq.timing import in_turns

from ..plan.images import choose, decode_all
from ..report.latency import median_and_range
from .pyiqa_model import PYIQA, open_pyiqa
from .sizes import METAVAR, Size, parse_size, size_name

Call = Callable[[Images], NDArray[Any]]


@dataclass(frozen=True)
class Model:
    """A model that is open.

    Attributes:
        name: As it was given.
        call: uint8 images (N, H, W, 3) to their N scores.
        size: The one size of its images, (height, width); None for any.
        weights: The SHA-256 of its checkpoint, "" where nothing tells, None for random weights, which no other has.
    """

    name: str
    call: Call
    size: Size | None
    weights: str | None

    def may_equal(self, other: Model) -> bool:
        """Whether the two hold the same weights, as far as is known."""
        if self.weights is None or other.weights is None:
            return False
        return not (self.weights and other.weights) or self.weights == other.weights


@dataclass
class Measured:
    """A model on images of one size in batches: with each call it goes on to the next of the images."""

    model: Model
    images: Images
    batch: int
    scores: list[NDArray[Any]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        start = len(self.scores) * self.batch % (len(self.images) - self.batch + 1)
        self.scores.append(self.model.call(self.images[start : start + self.batch]))

    @property
    def per_image(self) -> NDArray[np.float64]:
        return np.array(self.seconds) / self.batch

    def times_as_fast(self, first: Measured) -> NDArray[np.float64]:
        """In each turn."""
        return first.per_image / self.per_image

    def difference(self, first: Measured) -> float:
        """The largest of the scores, which both found for the same images."""
        return float(np.abs(np.array(self.scores, np.float64) - np.array(first.scores, np.float64)).max())


def open_model(name: str, threads: int | None, opened: ExitStack) -> Model:
    """A model by its path, or by "pyiqa" or "pyiqa=WEIGHTS"; `opened` closes it."""
    word, _, weights = name.partition("=")
    if word == PYIQA:
        digest = sha256(Path(weights)) if weights else None
        return Model(name, open_pyiqa(threads or available_cpus(), Path(weights) if weights else None), None, digest)
    path = Path(name)
    runtime = opened.enter_context(closing(open_runtime(path, "cpu", threads)))
    size = None if runtime.spec.any_size else runtime.spec.fixed_size
    return Model(name, runtime, size, _weights_of(path))


def _weights_of(path: Path) -> str:
    if path.name.endswith(CHECKPOINT_ENDINGS):
        return sha256(path)
    record = read_record(path)
    return (record.checkpoint.get("sha256") or "") if record else ""


def measure(calls: Sequence[Measured], turns: int, after_turn: Callable[[], object]) -> None:
    """Give each its seconds, one for each turn."""
    for call, seconds in zip(calls, in_turns(calls, turns, after_turn=after_turn), strict=True):
        call.seconds += seconds


def speed_table(measured: Sequence[Measured]) -> str:
    """A Markdown table: medians for each image, and the median over the turns of how many times as fast each was as the
    first in the same turn, with the 10th and 90th percentiles."""
    rows = [
        [each.model.name, str(each.batch), _ms(each), median_and_range(each.times_as_fast(measured[0]))]
        for each in measured
    ]
    return markdown.table(["model", "batch", "ms an image", "times as fast as the first"], rows)


Row = dict[int, Measured]
"""The models that take one size, by their places among all."""


def size_table(rows: dict[str, Row], names: Sequence[str]) -> str:
    """A Markdown table: in each row, by its name, milliseconds for each image of each model, and how many times as fast
    it was as the first there; in the last the geometric means of these."""
    cells = [
        [label, *(_cell(row.get(place), row.get(0)) for place in range(len(names)))] for label, row in rows.items()
    ]
    means = [_geometric_mean(list(rows.values()), place) for place in range(1, len(names))]
    return markdown.table(["ms an image", *names], [*cells, ["geometric mean", "", *means]])


def _cell(measured: Measured | None, first: Measured | None) -> str:
    if measured is None:
        return ""
    if first is None or measured is first:
        return _ms(measured)
    return f"{_ms(measured)}: {median_and_range(measured.times_as_fast(first))}"


def _ms(measured: Measured) -> str:
    return f"{np.median(measured.per_image) * 1e3:.1f}"


def _geometric_mean(rows: Sequence[Row], place: int) -> str:
    """Of the medians of the rows that have both the model and the first."""
    medians = [np.median(row[place].times_as_fast(row[0])) for row in rows if {0, place} <= set(row)]
    return f"{np.exp(np.mean(np.log(medians))):.2f}" if medians else ""


def differences(rows: Sequence[Row], models: Sequence[Model]) -> list[str]:
    """A line for each model that may hold the weights of the first: how far its scores are from the first's."""
    lines = []
    for place, model in enumerate(models):
        found = [row[place].difference(row[0]) for row in rows if {0, place} <= set(row)]
        if place and found and model.may_equal(models[0]):
            lines.append(f"{model.name}: scores differ by at most {max(found):.1e} from those of {models[0].name}.")
    return lines


def in_order(folder: Path, first: int) -> list[Path]:
    """The images of a folder, the `first` ones evenly out of all of it: they are taken unless they are broken."""
    files = choose([folder], None, 0, scratch=Path()).files
    chosen = evenly(files, first)
    return chosen + sorted(set(files) - set(chosen))


def images_of(files: Sequence[Path], size: Size, least: int, most: int) -> Images:
    """`most` images that can be read, fitted to `size`; says on stderr which could not. Raises MusiqError where there are
    not even `least`."""
    found = []
    with without_decoder_noise(), closing(decode_all(files, *size)) as decoded:
        for path, image, how in decoded:
            if image is None:
                click.echo(f"{path}: {how}", err=True)
            else:
                found.append(image)
            if len(found) == most:
                break
    if len(found) < least:
        raise MusiqError(f"There are {len(found)} images for a batch of {least}; give more, or a smaller --batch.")
    return np.stack(found)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", nargs=-1, required=True)
@click.option("--images", required=True, type=click.Path(path_type=Path), help="A folder of real images, or one.")
@click.option("--size", "sizes", type=parse_size, metavar=METAVAR, multiple=True, help="Of the images; again for more.")
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, default=(1,), show_default=True)
@click.option("--turns", type=click.IntRange(1), default=14, show_default=True)
@click.option("--threads", type=click.IntRange(1), show_default="what this process may use")
def main(
    models: Sequence[str],
    images: Path,
    sizes: Sequence[Size],
    batches: Sequence[int],
    turns: int,
    threads: int | None,
) -> None:
    """Print how many times as fast as the first of MODELS the others are on this CPU, in turns in one process.

    MODELS are artifacts and checkpoints, or the word pyiqa for the eager MUSIQ of that package with random weights,
    pyiqa=WEIGHTS with those of a file. One for a fixed size is measured at that alone; one for any size, as pyiqa is, at
    each --size, without any at that of the first model that has one, else at 1024x768.
    """
    with ExitStack() as opened:
        found = [open_model(name, threads, opened) for name in models]
        usual = next((model.size for model in found if model.size), USUAL_SIZE)
        wanted = dict.fromkeys(sizes or [model.size or usual for model in found])
        most = max(*batches, turns)
        files = in_order(images, most)
        decoded = {size: images_of(files, size, max(batches), most) for size in wanted}
        rows, groups = dict[str, Row](), list[list[Measured]]()  # what is compared is timed together
        for size in sizes:
            for batch in batches:
                row = row_of(found, decoded[size], batch)
                rows[size_name(size) + (f", batch {batch}" if batch > 1 else "")] = row
                groups.append(list(row.values()))
        if not sizes:
            groups = [[Measured(each, decoded[each.size or usual], batch) for each in found for batch in batches]]
        with progress_bar(total=turns * len(groups)) as bar:
            for group in groups:
                measure(group, turns, bar.advance)
    click.echo(f"{turns} turns of {sum(map(len, groups))} calls, {threads or available_cpus()} threads:\n")
    click.echo(size_table(rows, models) if sizes else speed_table(groups[0]))
    click.echo("".join(f"\n{line}" for line in differences(list(rows.values()), found)), nl=bool(sizes))


def row_of(models: Sequence[Model], images: Images, batch: int) -> Row:
    """The models that take these images. Raises MusiqError where there is none."""
    size = images.shape[1:3]
    row = {place: Measured(model, images, batch) for place, model in enumerate(models) if model.size in (None, size)}
    if not row:
        raise MusiqError(f"No model here takes images of {size_name(size)}; give one for that size, or for any.")
    return row


if __name__ == "__main__":
    main()
