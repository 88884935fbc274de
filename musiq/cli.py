"""The `musiq-score` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musiq.bundled import default_model
from musiq.errors import MusiqError
from musiq.images.decode import MAX_PIXELS
from musiq.images.opencv import without_decoder_noise
from musiq.output.formats import FORMATS
from musiq.output.gallery import Gallery, check_page
from musiq.output.resumable import RowFile
from musiq.output.run import model_labels, score_all, summary
from musiq.output.stream import RowStream, is_stream
from musiq.output.text import TextFormat
from musiq.published import describe, model_path
from musiq.runtimes.base import MODES
from musiq.runtimes.batching import USUAL_BATCH
from musiq.scoring import Scorer, ScorerOptions
from musiq.scoring.options import JPEG_DECODERS
from musiq.scoring.plan import MAX_TOKENS
from musiq.scoring.row import FRAME_COLUMNS, VIDEO_COLUMNS
from musiq.scoring.scorer import MAX_WORKERS
from musiq.scoring.sources import expand, unlisted, without
from musiq.terminal import Command, progress_bar, tell
from musiq.video import FrameChoice, is_video

if TYPE_CHECKING:
    from musiq.distributed.ray_scorer import RayScorer

SOME_FAILED = 3


@dataclass(frozen=True)
class ScoreOptions:
    """What the command was asked for, under the names of its options; MusiqError for what makes no sense together."""

    models: tuple[Path, ...]
    out: Path | None
    format: str
    resume: bool
    fail_on_error: bool
    engine: str
    address: str | None
    column: str | None
    scorer: ScorerOptions
    gallery: Path | None = None

    def __post_init__(self) -> None:
        if self.resume and self.out is None:
            raise MusiqError("--resume continues a file: name it with --out.")
        if self.format == "parquet" and self.streams:
            place = "stdout" if self.out is None else f"{self.out}, as it is made at the end"
            raise MusiqError(f"Parquet cannot be written to {place}: name a file with --out.")
        if self.resume and self.streams:
            raise MusiqError(f"--resume continues a file, and {self.out} is none: leave it out.")
        if self.engine == "local" and (self.address or self.column):
            raise MusiqError("--address and --column are for --engine ray. Leave them out, or add it.")
        if self.engine == "ray" and (self.resume or self.scorer.workers):
            raise MusiqError(
                "--resume and --workers are for --engine local: Ray scores the batch of a dead worker again, and each of "
                "its workers decodes with --threads. Leave them out."
            )
        if self.engine == "ray" and (self.scorer.frames or self.scorer.per_frame):
            raise MusiqError("--frames and --per-frame are for --engine local: Ray scores images. Leave them out.")
        if self.gallery is not None:
            check_page(self.gallery)
            if self.out is not None and os.path.realpath(self.out) == os.path.realpath(self.gallery):
                raise MusiqError(f"--out and --gallery are both {self.out}. Give each a file of its own.")
            if self.engine == "ray":
                raise MusiqError(
                    "--gallery is for --engine local, which decodes the images here. Leave it out; the same command "
                    "without --engine ray and with --out, --resume and --gallery then makes the page of the rows there are."
                )

    @property
    def streams(self) -> bool:
        """Whether rows go to where nothing can be taken back: to stdout, a device, a FIFO."""
        return self.out is None or is_stream(self.out)

    def settings(self, resize: str) -> dict[str, str]:
        """What changes scores besides the models, as the command line has it; `resize` is the policy in force."""
        return {
            "--resize": resize,
            "--background": self.scorer.background,
            "--max-pixels": str(self.scorer.max_pixels),
            "--max-tokens": str(self.scorer.max_tokens),
            "--reduced-jpeg": "on" if self.scorer.reduced_jpeg else "off",
            "--jpeg-decoder": self.scorer.jpeg_decoder,
            "--frames": str(FrameChoice.parse(self.scorer.frames)),
            "--per-frame": "on" if self.scorer.per_frame else "off",
        }

    def numbers(self, sources: Iterable[str]) -> tuple[str, ...]:
        """The columns that rows have besides, as there are videos."""
        if self.scorer.per_frame:
            return FRAME_COLUMNS
        return VIDEO_COLUMNS if self.scorer.frames or any(map(is_video, sources)) else ()


def list_models_and_exit(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(describe())
        context.exit()


@click.command(cls=Command, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--model",
    "models",
    type=click.Path(path_type=Path),
    multiple=True,
    show_default="newest in exports/, else the one that comes with musiq",
    help="Artifact to score with, or the name of a published model; of several artifacts, given one by one, each image "
    "takes the nearest in shape.",
)
@click.option(
    "--list-models",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=list_models_and_exit,
    help="Say which published models there are by name, their licences, and what is here of each.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), show_default="stdout", help="File, device or FIFO for the rows."
)
@click.option(
    "--format",
    type=click.Choice(tuple(FORMATS)),
    show_default="--out's ending, else csv",
    help="Of the rows; txt is the classic path<TAB>score, without a head and without reasons.",
)
@click.option(
    "--device",
    default="auto",
    help="auto, cpu, cuda:0; for .onnx also tensorrt:0, cuda-graph:0; for .pt2 cuda-compile:0.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    show_default=f"{USUAL_BATCH}; on CPUs fewer of large images, for throughput as much less as there are threads",
    help="Images given to the model at once; for a model of any size those of 1024x768, of smaller ones more.",
)
@click.option(
    "--resize",
    metavar="POLICY",
    show_default="what the model brings, else native; cover for a model of one size",
    help="What a model of any size sees: native, all of the image; longer=N or shorter=N, it shrunk until that side has N "
    "pixels (longer=N,enlarge: also enlarged); vbench, vbench-shorter, vbench-shorter-centercrop: as VBench does. A model "
    "of one size has cover alone: all covered, the middle cropped.",
)
@click.option(
    "--frames",
    metavar="all|N|every=1.5s",
    show_default="8 of videos that are named",
    help="Of a video: all, so many evenly spread over its time, or one each so often. With it, folders yield their videos "
    "too, and GIFs and animated WebPs are some.",
)
@click.option("--per-frame", is_flag=True, help="A row for each frame of a video, instead of one with their mean.")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="latency",
    help="On CPUs, for .onnx and .xml: all threads for each batch, or one each for as many smaller batches at once.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    show_default=f"the CPUs allowed, {MAX_WORKERS} at most",
    help="Decoding threads.",
)
@click.option("--threads", type=click.IntRange(1), show_default="the CPUs allowed", help="The model's own, on a CPU.")
@click.option("--max-pixels", type=click.IntRange(1), default=MAX_PIXELS, help="Larger images are not decoded.")
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=MAX_TOKENS,
    help="Images of more, in a model of any size, are not scored; 4000x3000 pixels have 11901.",
)
@click.option(
    "--reduced-jpeg",
    is_flag=True,
    help="Decode JPEGs of 4 times the height and width that the model sees and more at 1/2 to 1/8: faster, scores change a "
    "little.",
)
@click.option(
    "--jpeg-decoder",
    type=click.Choice(JPEG_DECODERS),
    default="opencv",
    help="nvimagecodec: NVIDIA's, on the model's GPU where it has one; pixels there differ by rounding.",
)
@click.option("--background", type=click.Choice(["white", "black"]), default="white", help="Behind transparent pixels.")
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", help="Where: here, or on a Ray cluster."
)
@click.option("--address", show_default="one started here", help="Of a running Ray cluster (--engine ray).")
@click.option("--column", show_default="bytes, image or path", help="Of images or paths in *.parquet (--engine ray).")
@click.option(
    "--gallery",
    type=click.Path(path_type=Path),
    metavar="PAGE.html",
    help="Make a page to look at besides: thumbnails sorted by score, with a histogram; one file, for any browser.",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted --out: skip the images that it has rows for.")
@click.option("--fail-on-error", is_flag=True, help="Stop at the first image that cannot be scored, and exit with 1.")
def main(
    paths: tuple[str, ...],
    models: tuple[Path, ...],
    out: Path | None,
    format: str | None,
    resume: bool,
    fail_on_error: bool,
    engine: str,
    address: str | None,
    column: str | None,
    gallery: Path | None,
    **scorer: Any,
) -> None:
    """Score images and videos: files, folders (recursive), URLs, or - for a list on stdin, one a line or NUL-separated.

    One row an image, in order: path, score, size (what the model saw), fitted (what was done to the image for that),
    error (why there is no score), model. With --out, rows gather in OUT.part, which becomes OUT once all are there.
    Parquet needs --out.

    One row a video: score is the mean of some frames, with frames (how many), min, median, max; see --frames, --per-frame.

    With --engine ray, *.parquet and *.tar (WebDataset) hold images too; --threads are the CPUs of each of its workers.

    Exit code: 0 all scored, 3 some rows have errors, 1 could not run.
    """
    options = ScoreOptions(
        models=tuple(map(model_path, models)) or (default_model(),),
        out=out,
        format=format or format_of(out),
        resume=resume,
        fail_on_error=fail_on_error,
        engine=engine,
        address=address,
        column=column,
        scorer=ScorerOptions(**scorer),
        gallery=gallery,
    )
    sources = expand(paths, videos=options.scorer.frames is not None) if engine == "local" else unlisted(paths)
    if out is not None and not options.streams:
        check_no_input(out, sources, "--out")
    if gallery is not None:
        check_no_input(gallery, sources, "--gallery")
    with open_scorer(options) as opened, without_decoder_noise():
        errors = score_to(options, opened, sources)
    sys.exit(SOME_FAILED if errors else 0)


def open_scorer(options: ScoreOptions) -> Scorer | RayScorer:
    if options.engine == "local":
        return Scorer(options.models, **vars(options.scorer))
    from musiq.distributed.ray_scorer import RayScorer

    return RayScorer(options.models, options.scorer, address=options.address, column=options.column)


def score_to(options: ScoreOptions, scorer: Scorer | RayScorer, sources: list[str]) -> int:
    """Score into the file that was asked for, or to stdout, and make the page; the count of rows with an error, old ones
    included."""
    labels = model_labels(options.models)
    with gallery_of(options, scorer, labels) as page:
        errors = write_rows(options, scorer, sources, labels, page)
        if page:
            page.finish()
            tell(f"To look at: {page.path}")
    return errors


def gallery_of(
    options: ScoreOptions, scorer: Scorer | RayScorer, labels: Mapping[str, str]
) -> AbstractContextManager[Gallery | None]:
    """The page that was asked for, with the settings that are not the usual ones."""
    if options.gallery is None:
        return nullcontext()
    usual = replace(options, scorer=ScorerOptions()).settings("")
    settings = {name: value for name, value in options.settings(scorer.resize).items() if value != usual[name]}
    return Gallery(options.gallery, scorer.spec, list(labels.values()), settings)


def write_rows(
    options: ScoreOptions,
    scorer: Scorer | RayScorer,
    sources: list[str],
    labels: Mapping[str, str],
    page: Gallery | None,
) -> int:
    """Score, write and show each; the count of rows with an error, old ones included."""
    row_format = FORMATS[options.format](scorer.spec.outputs, options.numbers(sources))
    if options.out is None or options.streams:
        assert isinstance(row_format, TextFormat)
        with RowStream(options.out, row_format) as stream:
            tally = score_all(
                scorer, sources, labels, stream.write, options.fail_on_error, page, quiet=stream.is_terminal
            )
        tell_all(summary(scorer, tally), tally.advice)
        return tally.errors
    with (
        RowFile(options.out, row_format, labels.values(), options.resume, options.settings(scorer.resize)) as file,
        resumable(file) if options.engine == "local" else nullcontext(),
    ):
        if page and file.done and isinstance(scorer, Scorer):
            with progress_bar("Thumbnails", file.done.total()) as bar:
                page.add_again(file.rows(), options.scorer, scorer.workers, bar.advance)
        tally = score_all(scorer, without(sources, file.done), labels, file.write, options.fail_on_error, page)
        file.finish()
    before = f"; {file.errors:,} of the rows from before with errors" if file.errors else ""
    tell_all(summary(scorer, tally) + before, tally.advice)
    return tally.errors + file.errors


def tell_all(*lines: str) -> None:
    for line in filter(None, lines):
        tell(line)


def format_of(out: Path | None) -> str:
    """The format that the name of the output asks for."""
    ending = "csv" if out is None else out.suffix.lower().removeprefix(".")
    if ending not in FORMATS and out is not None and is_stream(out):
        return "csv"
    if ending not in FORMATS:
        raise MusiqError(
            f"The name {out} does not tell its format; end it in .{', .'.join(FORMATS)}, or give --format."
        )
    return ending


def check_no_input(out: Path, sources: Iterable[str], option: str) -> None:
    """Raise MusiqError where the file of rows would take the place of what is to be scored: `--out photos/*.png`."""
    target = os.path.realpath(out)
    names = (out.name, os.path.basename(target))
    if any(source.endswith(names) and os.path.realpath(source) == target for source in sources):
        raise MusiqError(f"Cannot write {out}: it is among the images to score. Give another {option}.")


@contextmanager
def resumable(file: RowFile) -> Iterator[None]:
    """Tell how to go on, should the run be interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        tell(f"The rows so far are in {file.part}: the same command with --resume goes on from there.")
        raise


if __name__ == "__main__":
    main()
