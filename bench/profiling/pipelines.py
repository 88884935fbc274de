"""Pipelines beside `musiq-score`: the same images through the command, Hugging Face's datasets and WebDataset.

`python -m musiq_bench.profiling.pipelines IMAGES --model model.onnx` in a checkout prints the table of docs/curation.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import click
import numpy as np

from musiq import markdown
from musiq.errors import MusiqError, one_line
from musiq.images.find import find_images
from musiq.terminal import Command, progress_bar

from ..report.latency import median_and_range

START = {
    "musiq-score": "from musiq.cli import main; run = lambda: main([photos, '--model', model])",
    "datasets": "import hf_datasets; run = lambda: hf_datasets.main(photos, model)",
    # WebDataset imports torch when a pipeline starts; those that have one have it imported.
    "webdataset": "import torch, webdataset_scores; run = lambda: webdataset_scores.main(shard, model)",
}
"""For each way what its process imports first, and what is timed then; the first is what the others are compared with."""

PROCESS = """
import sys, time
photos, shard, model = sys.argv[1:]
{start}
begin = time.perf_counter()
try:
    run()
except SystemExit as end:
    if end.code not in (None, 0, 3):  # 3: some images have errors
        raise
sys.stdout.flush()
print("seconds", time.perf_counter() - begin, file=sys.stderr)
"""


def seconds(way: str, photos: Path, shard: Path, model: Path, examples: Path, cache: Path) -> float:
    """What one way takes for all images, the model's opening and the rows included, imports not.

    Raises:
        MusiqError: It fails, such as where its package is not installed.
    """
    command = [sys.executable, "-c", PROCESS.format(start=START[way]), *map(str, (photos, shard, model))]
    paths = os.pathsep.join([str(examples), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = done.stderr.strip().splitlines()
    if done.returncode or not said or not said[-1].startswith("seconds "):
        raise MusiqError(f"{way} failed: {one_line(said[-1]) if said else f'exit code {done.returncode}'}.")
    return float(said[-1].split()[1])


def write_shard(images: list[Path], shard: Path) -> None:
    """A WebDataset tar of images, in which each is a sample: its key ends at the first dot of a name."""
    with tarfile.open(shard, "w") as tar:
        for number, image in enumerate(images):
            tar.add(image, f"{number:06d}{image.suffix.lower()}")


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("photos", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Of all ways, in turns.")
@click.option("--examples", type=click.Path(exists=True, path_type=Path), default="examples", show_default=True)
def main(photos: Path, model: Path, rounds: int, examples: Path) -> None:
    """Print how many images a second of the folder PHOTOS each way scores, and how that compares with musiq-score.

    Each runs in processes of its own.
    """
    images = find_images(photos)
    taken: dict[str, list[float]] = {way: [] for way in START}
    with tempfile.TemporaryDirectory() as folder, progress_bar("runs", rounds * len(START)) as bar:
        shard = Path(folder) / "photos.tar"
        write_shard(images, shard)
        for _ in range(rounds):
            for way, found in taken.items():
                found.append(seconds(way, photos.resolve(), shard, model.resolve(), examples.resolve(), Path(folder)))
                bar.advance()
    rates = {way: len(images) / np.array(found) for way, found in taken.items()}
    click.echo(f"{len(images)} images, {model.name}, {rounds} rounds:\n")
    rows = [
        [way, f"{np.median(rate):.2f}", median_and_range(rate / rates["musiq-score"])] for way, rate in rates.items()
    ]
    click.echo(markdown.table(["", "images/s", "of musiq-score"], rows))


if __name__ == "__main__":
    main()
