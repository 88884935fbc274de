"""The images that an artifact is checked on: the user's own, or generated ones that need no file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from musiq.errors import ImageError, MusiqError
from musiq.images.decode import prepare
from musiq.images.find import evenly, find_images

from ..request import Images

GENERATED = 16


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


def read(folder: Path, height: int, width: int, most: int) -> Images:
    """Up to `most` images of a folder, evenly spread over its sorted files, fitted; broken ones are passed over."""
    images = list(_fitted(evenly(find_images([folder]), most), height, width))
    if not images:
        raise MusiqError(
            f"None of the images in {folder} could be read. Give --images another folder, or leave it out."
        )
    return np.stack(images)


def _fitted(files: list[Path], height: int, width: int) -> Iterator[Images]:
    for file in files:
        try:
            yield prepare(file, height, width)[0]
        except ImageError:
            continue
