"""Makes a labelled set to try everything on: real photographs, distorted, labelled with the level of the distortion.

The photographs are those inside the scikit-image and scikit-learn packages. No person rated these images: a model trained
on them shows that the whole path works, and says nothing about how people see. Run as `python -m
musiq.datasets.synthetic --out DIR`.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import click
import cv2
import numpy as np

from musiq.errors import MusiqError
from musiq.files import atomic_write
from musiq.images.decode import decode
from musiq.images.fit import Image
from musiq.presets import PRESETS
from musiq.terminal import Command

HEIGHT, WIDTH = PRESETS["tiny"].fixed_size

SKIMAGE, SKLEARN = ("skimage", "data"), ("sklearn", "datasets/images")

# By photograph, so that no crop of a test photograph is trained on. Bundled in the packages, nothing is downloaded.
PHOTOGRAPHS: dict[str, tuple[tuple[str, str], str]] = {
    "brick.png": (SKIMAGE, "train"),
    "camera.png": (SKIMAGE, "train"),
    "flower.jpg": (SKLEARN, "train"),
    "grass.png": (SKIMAGE, "train"),
    "gravel.png": (SKIMAGE, "train"),
    "hubble_deep_field.jpg": (SKIMAGE, "train"),
    "ihc.png": (SKIMAGE, "train"),
    "motorcycle_left.png": (SKIMAGE, "train"),
    "retina.jpg": (SKIMAGE, "train"),
    "rocket.jpg": (SKIMAGE, "train"),
    "astronaut.png": (SKIMAGE, "val"),
    "coins.png": (SKIMAGE, "val"),
    "chelsea.png": (SKIMAGE, "test"),
    "china.jpg": (SKLEARN, "test"),
    "coffee.png": (SKIMAGE, "test"),
}

LEVELS = 5
BEST, WORST = 5.0, 1.0  # labels: pristine, and the strongest distortion

Distortion = Callable[[Image, int, np.random.Generator], Image]


def blur(image: Image, level: int, _: np.random.Generator) -> Image:
    """Gaussian, sigma 0.8 to 4 pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), (0.8, 1.2, 1.8, 2.7, 4.0)[level - 1]), np.uint8)


def noise(image: Image, level: int, rng: np.random.Generator) -> Image:
    """White Gaussian, sigma 6 to 50 grey levels."""
    sigma = (6, 11, 18, 30, 50)[level - 1]
    return _clipped(image + rng.normal(0, sigma, image.shape))


def jpeg(image: Image, level: int, _: np.random.Generator) -> Image:
    """JPEG, quality 40 down to 4."""
    quality = (40, 25, 15, 8, 4)[level - 1]
    data = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return decode(data.tobytes())


def downscale(image: Image, level: int, _: np.random.Generator) -> Image:
    """Shrunk 1.5 to 6 times by area and enlarged again by a linear kernel."""
    ratio = (1.5, 2.0, 3.0, 4.0, 6.0)[level - 1]
    size = round(image.shape[1] / ratio), round(image.shape[0] / ratio)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR), np.uint8)


def contrast(image: Image, level: int, _: np.random.Generator) -> Image:
    """Contrast lost about the mean: 75% down to 15% is left."""
    left = (0.75, 0.55, 0.4, 0.25, 0.15)[level - 1]
    return _clipped(image.mean() + left * (image - image.mean()))


def brightness(image: Image, level: int, rng: np.random.Generator) -> Image:
    """Overexposed or underexposed: 30 to 130 grey levels up or down."""
    shift = (30, 50, 75, 100, 130)[level - 1]
    return _clipped(image + shift * rng.choice([-1.0, 1.0]))


DISTORTIONS: dict[str, Distortion] = {
    "blur": blur,
    "noise": noise,
    "jpeg": jpeg,
    "downscale": downscale,
    "contrast": contrast,
    "brightness": brightness,
}


VERSIONS = [("pristine", 0), *((name, level) for name in DISTORTIONS for level in range(1, LEVELS + 1))]


def label(level: int) -> float:
    """5 for level 0, the photograph as it is, down to 1 for level 5."""
    return round(BEST - (BEST - WORST) * level / LEVELS, 3)


def make(out: Path, versions: int = 6, seed: int = 0) -> int:
    """Make the set.

    From each photograph `versions` images as they are, and as many at every level of every distortion. Each is a crop
    of its own, of the tiny preset's size, so that what is to be learned is the distortion and not the place.

    Args:
        out: Folder for the images and labels.csv.
        versions: Crops of each photograph a level.
        seed: Of the crops and the noise; the same gives the same images.

    Returns:
        How many images there are.

    Raises:
        MusiqError: scikit-image or scikit-learn is not installed, or the folder cannot be written.
    """
    photographs = {name: photograph(name) for name in PHOTOGRAPHS}
    rows = []
    with atomic_write(out / "labels.csv") as part:  # gets its name when every image is there
        for number, (name, image) in enumerate(photographs.items()):
            rng = np.random.default_rng([seed, number])
            stem, split = Path(name).stem, PHOTOGRAPHS[name][1]
            for version, (distortion, level) in itertools.product(range(versions), VERSIONS):
                crop = _crop(image, rng)
                file = f"{split}/{stem}_{version}_{distortion}{level}.png"
                _write(out / file, DISTORTIONS[distortion](crop, level, rng) if level else crop)
                rows.append([file, label(level), split, stem, distortion, level])
        with part.open("w", newline="", encoding="utf-8") as file_of_rows:
            csv.writer(file_of_rows).writerows([["image", "mos", "split", "source", "distortion", "level"], *rows])
    return len(rows)


def photograph(name: str) -> Image:
    """One of PHOTOGRAPHS as uint8 RGB (H, W, 3), read from the installed package."""
    (package, folder), _ = PHOTOGRAPHS[name]
    found = find_spec(package)
    if found is None or found.origin is None:
        raise MusiqError(
            f"The demo's photographs lie in scikit-image and scikit-learn, and {package} is not installed: "
            "pip install scikit-image scikit-learn."
        )
    path = Path(found.origin).parent / folder / name
    if not path.is_file():
        raise MusiqError(f"This {package} has no {folder}/{name}: pip install --upgrade scikit-image scikit-learn.")
    return decode(path)


def _crop(image: Image, rng: np.random.Generator) -> Image:
    """A part of the photograph, from the image's own size up to all that fits, averaged down to the image's size."""
    zoom = rng.uniform(1, min(image.shape[0] / HEIGHT, image.shape[1] / WIDTH))
    rows, columns = int(HEIGHT * zoom), int(WIDTH * zoom)
    top = int(rng.integers(image.shape[0] - rows + 1))
    left = int(rng.integers(image.shape[1] - columns + 1))
    part = np.ascontiguousarray(image[top : top + rows, left : left + columns])
    return np.asarray(cv2.resize(part, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


def _clipped(values: np.ndarray) -> Image:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _write(path: Path, image: Image) -> None:
    # PNG keeps exactly the distortion that the label names; the lowest compression is the fastest to write and read.
    # Written directly: labels.csv is what makes the set, and comes when all are there; an fsync each would take longer
    # than the images.
    ok, data = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert ok
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("demo/data"), show_default=True)
@click.option(
    "--versions", type=click.IntRange(1), default=6, show_default=True, help="Crops of each photograph a level."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the crops and the noise.")
def main(out: Path, versions: int, seed: int) -> None:
    """Make a labelled set of synthetically distorted real photographs, to try training, export and scoring on."""
    count = make(out, versions, seed)
    tests = [Path(name).stem for name, (_, split) in PHOTOGRAPHS.items() if split == "test"]
    click.echo(
        f"Wrote {count} images ({WIDTH}x{HEIGHT}) and {out / 'labels.csv'}, from {len(PHOTOGRAPHS)} photographs."
    )
    click.echo(
        f"Synthetic: the labels are levels of distortion (5 best, 1 worst), not human ratings. Test: {', '.join(tests)}."
    )


if __name__ == "__main__":
    main()
