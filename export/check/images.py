"""The images that an artifact is checked on: the user's own, or generated ones that need no file."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod, sqrt
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from musiq.errors import ImageError, MusiqError
from musiq.images.decode import prepare
from musiq.images.find import evenly, find_images
from musiq.images.fit import scale_to
from musiq.spec import USUAL_SIZE

from ..request import Images

GENERATED = 16

SIZES = (
    (251, 333),  # odd
    (768, 1024),  # large
    (640, 480),  # portrait
    (25, 20),  # smaller than a patch
    (384, 512),  # landscape
    (40, 900),  # long and thin
    (256, 256),  # square
    (96, 64),  # small
)
"""(height, width) of the generated images for a model of any size."""

OF_EACH_SIZE = 3

LARGEST = 1152, 2048
"""Of one more: graphs for any size have parts that smaller images leave empty."""

MOST_PIXELS = prod(USUAL_SIZE)
"""Of a user's image for a model of any size: a check, and a calibration, are to take minutes."""


def generated_sizes() -> list[Images]:
    """OF_EACH_SIZE of each of SIZES, one size after another in turn, and one of LARGEST: each uint8 (height, width, 3)."""
    return [_generated(*size, seed) for seed, size in enumerate((*SIZES * OF_EACH_SIZE, LARGEST))]


def generated(height: int, width: int) -> Images:
    """uint8 (GENERATED, height, width, 3): landscapes of octave noise from flat and dark to bright, sharp and grainy.

    The same for everybody; spread over contrast, sharpness, noise and compression so that scores differ.
    """
    return np.stack([_generated(height, width, seed) for seed in range(GENERATED)])


def _generated(height: int, width: int, seed: int) -> Images:
    draw = np.random.default_rng([2108, 5997, seed])
    image: NDArray[Any] = np.zeros((height, width, 3), np.float32)
    roughness = draw.uniform(0.3, 0.95)
    for octave in range(8):
        cells = (2 + width * 2**octave // 512, 2 + height * 2**octave // 512)
        coarse = draw.standard_normal((cells[1], cells[0], 3)).astype(np.float32)
        image += roughness**octave * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    image = 128 + draw.uniform(-60, 60, 3) + draw.uniform(8, 70) * image
    if seed % 3 == 1:
        image = cv2.GaussianBlur(image, (0, 0), draw.uniform(0.3, 4))
    image = image + draw.normal(0, draw.uniform(0, 25) if seed % 4 == 2 else 0.5, image.shape)
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    if seed % 5 == 3:
        _, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(draw.integers(5, 40))])
        pixels = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)
    return pixels


def read(folder: Path, height: int | None, width: int | None, most: int, resize: str = "") -> list[Images]:
    """Up to `most` images of a folder, evenly spread over its sorted files, as `fitted`; broken ones are passed over."""
    images = list(_readable(evenly(find_images([folder]), most), height, width, resize))
    if not images:
        raise MusiqError(
            f"None of the images in {folder} could be read. Give --images another folder, or leave it out."
        )
    return images


def _readable(files: list[Path], height: int | None, width: int | None, resize: str) -> Iterator[Images]:
    for file in files:
        try:
            yield fitted(file, height, width, resize)
        except ImageError:
            continue


def fitted(file: Path, height: int | None, width: int | None, resize: str = "") -> Images:
    """A file as the model sees it.

    Args:
        file: Of an image.
        height: Pixels of the model's images; None, as the width, for any.
        width: The same.
        resize: The Spec's policy, for a model of any size.

    Returns:
        uint8 RGB (height, width, 3); for a model of any size at its own size, or one that has MOST_PIXELS at most.

    Raises:
        ImageError: The image cannot be read.
    """
    image, _ = prepare(file, height, width, resize=resize or "native")
    rows, columns = image.shape[:2]
    ratio = sqrt(MOST_PIXELS / (rows * columns))
    if height is None and ratio < 1:
        image, _ = scale_to(image, max(1, round(rows * ratio)), max(1, round(columns * ratio)))
    return image
