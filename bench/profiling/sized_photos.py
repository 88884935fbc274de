"""A folder of JPEGs in many sizes, out of photographs: what a folder of images from the web is to a model.

`python -m musiq_bench.profiling.sized_photos PHOTOS SIZES.csv OUT` writes one for each line of the table.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import click
import cv2

from musiq.errors import MusiqError
from musiq.files import atomic_write
from musiq.images.decode import decode
from musiq.images.find import find_images
from musiq.images.fit import fit
from musiq.terminal import Command, progress_bar

from .sizes import Size, parse_size, size_name

QUALITY = 90


def read_sizes(path: Path) -> list[Size]:
    """(height, width) of each image that a table wants. Raises MusiqError for what is no such table.

    Args:
        path: A CSV with the columns width and height, and maybe count, how many there are of that size.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError) as problem:
        raise MusiqError(
            f"Cannot read {path} ({problem}); give a CSV with the columns width,height[,count]."
        ) from problem
    sizes: list[Size] = []
    for number, row in enumerate(rows, 2):
        try:
            sizes += [parse_size(f"{row['width']}x{row['height']}")] * int(row.get("count") or 1)
        except (KeyError, ValueError, MusiqError) as problem:
            raise MusiqError(
                f"{path}, line {number} ({problem}): expected the columns width,height[,count]."
            ) from problem
    if not sizes:
        raise MusiqError(f"There is no size in {path}; give a CSV with the columns width,height[,count].")
    return sizes


def write_photos(photos: Sequence[Path], sizes: Sequence[Size], out: Path, quality: int = QUALITY) -> None:
    """One photograph after another resized to cover each size and cropped, as 0000-640x480.jpg and so on."""
    out.mkdir(parents=True, exist_ok=True)
    with progress_bar(total=len(sizes)) as bar:
        for number, (photo, size) in enumerate(zip(cycle(photos), sizes, strict=False)):
            image = cv2.cvtColor(fit(decode(photo), *size)[0], cv2.COLOR_RGB2BGR)
            with atomic_write(out / f"{number:04}-{size_name(size)}.jpg") as part:
                part.write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
            bar.advance()


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("photos", type=click.Path(exists=True, path_type=Path))
@click.argument("sizes", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--quality", type=click.IntRange(1, 100), default=QUALITY, show_default=True, help="Of the JPEGs.")
def main(photos: Path, sizes: Path, out: Path, quality: int) -> None:
    """Write JPEGs of the sizes in SIZES, a CSV width,height[,count], out of the images in the folder PHOTOS, into OUT."""
    wanted = read_sizes(sizes)
    write_photos(find_images(photos), wanted, out, quality)
    click.echo(f"{len(wanted)} images of {len(set(wanted))} sizes in {out}")


if __name__ == "__main__":
    main()
