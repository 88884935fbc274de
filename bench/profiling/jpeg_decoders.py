"""JPEG decoders compared: OpenCV, as `musiq-score` uses it, beside others, and at a part of an image's size.

`python -m musiq_bench.profiling.jpeg_decoders IMAGES --model model.onnx` prints the table of docs/benchmarks.md.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import click
import cv2
import numpy as np

from musiq import markdown
from musiq.errors import MusiqError
from musiq.images.decode import decoded
from musiq.images.find import find_images
from musiq.images.fit import fit
from musiq.images.header import read_header
from musiq.images.nvimagecodec import NvImageCodec
from musiq.runtimes.base import Images, Runtime
from musiq.runtimes.registry import open_runtime
from musiq.terminal import Command
from musiq.timing import timed

from ..report.latency import median_and_range

Decoder = Callable[[bytes, int, int], Images]
"""A JPEG's bytes to the image (height, width, 3), RGB, that a model of that size takes."""


def opencv(data: bytes, height: int, width: int, spare: int = 0) -> Images:
    """As `musiq-score` does; with `spare` at the part of its size that leaves so many times the model's."""
    needed = (spare * height, spare * width) if spare else None
    with decoded(data, cover=lambda *_: needed) as (image, reduction, _):
        return fit(image, height, width, reduction)[0]


def simplejpeg(data: bytes, height: int, width: int) -> Images:
    from simplejpeg import decode_jpeg  # type: ignore[import-untyped,import-not-found,unused-ignore]

    return fit(decode_jpeg(data), height, width)[0]


def nvimagecodec(data: bytes, height: int, width: int) -> Images:
    with decoded(data, jpeg=_nvimagecodec()) as (image, *_):
        return fit(image, height, width)[0]


@cache
def _nvimagecodec() -> NvImageCodec:
    return NvImageCodec()


def pyturbojpeg(data: bytes, height: int, width: int) -> Images:
    from turbojpeg import TJPF_RGB, TurboJPEG  # type: ignore[import-untyped,import-not-found,unused-ignore]

    return fit(TurboJPEG().decode(data, pixel_format=TJPF_RGB), height, width)[0]


def pillow(data: bytes, height: int, width: int) -> Images:
    from io import BytesIO

    from PIL import Image

    return fit(np.asarray(Image.open(BytesIO(data)).convert("RGB")), height, width)[0]


DECODERS: dict[str, Decoder] = {
    "OpenCV": opencv,
    "OpenCV, 4 times the model's size left": partial(opencv, spare=4),
    "OpenCV, twice the model's size left": partial(opencv, spare=2),
    "OpenCV, the model's size left": partial(opencv, spare=1),
    "nvImageCodec, on a GPU where there is one": nvimagecodec,
    "simplejpeg": simplejpeg,
    "PyTurboJPEG": pyturbojpeg,
    "Pillow": pillow,
}
"""The first is what the others are compared with."""


@dataclass
class Measured:
    """One decoder's milliseconds for each image, and how far its pixels and scores are from OpenCV's; or why none."""

    ms: list[float] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    problem: str = ""


def measure(files: Sequence[Path], height: int, width: int, runtime: Runtime | None, times: int) -> dict[str, Measured]:
    """Every decoder over every image, in turns, the best of so many `times`, from the file's bytes in memory to the
    fitted image, on one thread. Images that are no JPEG, or that need turning, are left out."""
    found = {name: Measured() for name in DECODERS}
    jpegs = 0
    for file in files:
        data = file.read_bytes()
        header = read_header(data)
        if header.format != "JPEG" or header.orientation != 1:
            continue
        jpegs += 1
        reference: tuple[Images, float] | None = None
        for name, result in found.items():
            if result.problem:
                continue
            try:
                image, ms = _best(partial(DECODERS[name], data, height, width), times)
            except (ImportError, MusiqError, RuntimeError) as problem:  # RuntimeError: PyTurboJPEG without its library
                result.problem = textwrap.shorten(str(problem), 240, placeholder=" ...")
                continue
            score = float(runtime(image[None])[0]) if runtime else 0.0
            reference = reference or (image, score)
            result.ms.append(ms)
            result.pixels.append(int(np.abs(image.astype(np.int16) - reference[0]).max()))
            result.scores.append(abs(score - reference[1]))
    if not jpegs:
        raise MusiqError("No JPEG that stands upright is among the images; give a folder with some.")
    return found


def _best(call: Callable[[], Images], times: int) -> tuple[Images, float]:
    """The image, and the milliseconds of the fastest of so many calls."""
    image, best = timed(call)
    return image, 1e3 * min([best, *(timed(call)[1] for _ in range(times - 1))])


def decoder_table(found: dict[str, Measured], scored: bool) -> str:
    """A Markdown table: the median of each decoder, and of its ratios to the first on the same image, with the 10th and
    90th percentiles of these."""
    heading = ["decoder", "ms", "ratio", "pixels", *(["scores"] if scored else [])]
    rows = []
    first = np.array(next(iter(found.values())).ms)
    for name, result in found.items():
        if result.problem:
            rows.append([name, result.problem, *[""] * (len(heading) - 2)])
            continue
        ratios, pixels = median_and_range(np.array(result.ms) / first), str(max(result.pixels))
        scores = [f"{max(result.scores):.2g}"] if scored else []
        rows.append([name, f"{np.median(result.ms):.1f}", ratios, pixels, *scores])
    return markdown.table(heading, rows)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--height", type=click.IntRange(1), default=768, show_default=True, help="That a model takes.")
@click.option("--width", type=click.IntRange(1), default=1024, show_default=True)
@click.option(
    "--model", type=click.Path(path_type=Path), help="Whose scores are compared; one for a fixed size, at that."
)
@click.option("--max-images", type=click.IntRange(1), default=100, show_default=True)
@click.option("--times", type=click.IntRange(1), default=3, show_default=True, help="Of which the best counts.")
def main(images: Sequence[Path], height: int, width: int, model: Path | None, max_images: int, times: int) -> None:
    """Print what decoding IMAGES (JPEG files or folders) costs on one thread, and what else than OpenCV would.

    "ms" from bytes to the fitted image; "pixels" and "scores" are the largest differences to those of OpenCV.
    """
    cv2.setNumThreads(1)
    runtime = open_runtime(model, "cpu") if model else None
    if runtime and not runtime.spec.any_size:
        height, width = runtime.spec.fixed_size
    found = measure(find_images(images)[:max_images], height, width, runtime, times)
    opencv_ms = next(iter(found.values())).ms
    click.echo(f"{len(opencv_ms)} JPEG files for a model at {width}x{height}, OpenCV {cv2.__version__}:\n")
    click.echo(decoder_table(found, scored=runtime is not None))


if __name__ == "__main__":
    main()
