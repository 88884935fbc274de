"""Imaging quality of a video as VBench computes it, beside `--resize vbench` on the same frames.

`python -m musiq_bench.profiling.vbench_loop pyiqa=WEIGHTS any.onnx any-bf16.xml --images photos/` makes a clip of the
images, by default 16 frames of 1280x720, and prints frames a second, all models in turns in one process. VBench's loop is
the eager MUSIQ of the package pyiqa on one frame after another, resized by torchvision; it gets the frames decoded. The
other models score the file, so their time holds its decoding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np

from musiq import Scorer, markdown
from musiq.errors import MusiqError
from musiq.hardware import available_cpus
from musiq.images.vbench import vbench_size
from musiq.runtimes.base import Images
from musiq.terminal import Command, progress_bar
from musiq.timing import in_turns
from musiq.video import open_video
from musiq.video.container import import_av

from ..report.latency import median_and_range
from .interleaved import images_of, in_order
from .pyiqa_model import PYIQA, open_pyiqa
from .sizes import METAVAR, Size, parse_size

Score = Callable[[], float]


def write_clip(images: Images, path: Path) -> None:
    """An MP4 of these frames, 25 a second."""
    with import_av().open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18"})
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(import_av().VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


def frames_of(clip: Path) -> Images:
    """All frames of a video, decoded."""
    with open_video(clip, max_pixels=2**31) as video:
        return np.stack([frame.pixels() for frame in video.frames(range(len(video.times)))])


def vbench_loop(frames: Images, threads: int, weights: Path | None) -> Score:
    """VBench's loop, which transforms all frames of a video and gives the model one after another. Raises MusiqError where
    a package is missing."""
    model = open_pyiqa(threads, weights)
    try:
        import torch
        from torchvision.transforms import Resize
    except ImportError as problem:
        raise MusiqError(f"VBench's preprocessing needs torchvision ({problem}): pip install torchvision.") from problem
    height, width = frames.shape[1:3]

    def score() -> float:
        images = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
        if max(height, width) > 512:
            images = Resize(vbench_size("longer", height, width), antialias=False)(images)
        return float(np.mean([model(image[None].permute(0, 2, 3, 1).numpy())[0] for image in images]))

    return score


def open_score(name: str, clip: Path, frames: Images, threads: int, opened: ExitStack) -> Score:
    """What scores the clip once: VBench's loop for "pyiqa" or "pyiqa=WEIGHTS", else a model by its path."""
    word, _, weights = name.partition("=")
    if word == PYIQA:
        return vbench_loop(frames, threads, Path(weights) if weights else None)
    scorer = opened.enter_context(Scorer(name, "cpu", threads=threads, resize="vbench", frames="all"))
    return lambda: scorer.score(clip)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("models", nargs=-1, required=True)
@click.option("--images", required=True, type=click.Path(path_type=Path), help="A folder of real images, or one.")
@click.option("--size", type=parse_size, metavar=METAVAR, default="1280x720", help="Of the frames.")
@click.option("--frames", "count", type=click.IntRange(1), default=16, help="Of the clip.")
@click.option("--turns", type=click.IntRange(1), default=7)
@click.option("--threads", type=click.IntRange(1), show_default="what this process may use")
def main(models: Sequence[str], images: Path, size: Size, count: int, turns: int, threads: int | None) -> None:
    """Print how many times as fast as the first of MODELS the others score a video as VBench does, on this CPU.

    MODELS are artifacts and checkpoints for any size, or the word pyiqa for VBench's loop with random weights,
    pyiqa=WEIGHTS with those of a file.
    """
    threads = threads or available_cpus()
    files = in_order(images, count)
    pictures = images_of((files * count)[:count], size, count, count)
    with ExitStack() as opened, tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(pictures, clip)
        frames = frames_of(clip)
        calls = [open_score(name, clip, frames, threads, opened) for name in models]
        scores = [call() for call in calls]
        with progress_bar(total=turns) as bar:
            seconds = np.array(in_turns(calls, turns, warmup=1, after_turn=bar.advance))
    rows = [
        [name, f"{count / np.median(taken):.3g}", median_and_range(seconds[0] / taken), f"{score:.4f}"]
        for name, taken, score in zip(models, seconds, scores, strict=True)
    ]
    click.echo(f"{turns} turns, {threads} threads, {count} frames of {size[1]}x{size[0]}:\n")
    click.echo(markdown.table(["model", "frames/s", "times as fast as the first", "score"], rows))


if __name__ == "__main__":
    main()
