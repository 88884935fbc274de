"""Reading the real images that an int8 model is calibrated on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from musiq.artifact import CalibrationFiles
from musiq.errors import ImageError, MusiqError
from musiq.images.decode import decode
from musiq.images.find import evenly, find_images
from musiq.images.fit import fit
from musiq.terminal import progress_bar

from ..request import CalibrationImages, Images, Int8Options, Request

# Fewer than 16 leave no part to measure on; from 64 on, the ranges that the activations reach hardly grow; beyond 512 only
# the time does.
FEWEST, ENOUGH, MOST = 16, 64, 512
HELD_OUT = 24  # at most so many for the sensitivity pass, which scores them once for every group of layers


def read(folder: Path, height: int, width: int, warn: Callable[[str], None]) -> CalibrationImages:
    """Up to 512 images of a folder, evenly spread over its sorted files; broken ones are passed over.

    Args:
        folder: Read with all folders below it.
        height: Of the model's images, which these are fitted to, in pixels.
        width: The same.
        warn: Called with a sentence where there are fewer than 64.

    Returns:
        The images, with their names.

    Raises:
        MusiqError: For fewer than 16.
    """
    files = evenly(find_images([folder]), MOST)
    names, images = [], []
    with progress_bar("reading calibration images", len(files)) as bar:
        for file in files:
            try:
                images.append(fit(decode(file), height, width)[0])
                names.append(str(file.relative_to(folder)))
            except ImageError:
                pass
            bar.advance()
    if len(names) < FEWEST:
        raise MusiqError(
            f"{folder} has {len(names)} readable images; int8 needs at least {FEWEST} to calibrate on, better {ENOUGH} "
            f"to {MOST}. Give --calibration-images a folder with more images like those to be scored."
        )
    if len(names) < ENOUGH:
        warn(f"{folder} has {len(names)} readable images: int8 is calibrated better on {ENOUGH} to {MOST}.")
    return CalibrationImages(tuple(names), np.stack(images))


def split(images: CalibrationImages) -> tuple[list[int], list[int]]:
    """Indices of the images that set the ranges, and of those held out to measure what that costs."""
    everyone = range(len(images.names))
    held = evenly(everyone, min(HELD_OUT, 3 * len(everyone) // 8))
    return [index for index in everyone if index not in held], held


def files(images: CalibrationImages) -> CalibrationFiles:
    """The same by name, for the record."""
    ranges, held = split(images)
    names = images.names
    return CalibrationFiles(tuple(names[index] for index in ranges), tuple(names[index] for index in held))


def options_of(request: Request) -> Int8Options:
    """What a request brings for int8. Raises MusiqError where it brings nothing."""
    if request.int8 is None:
        raise missing()
    return request.int8


def missing() -> MusiqError:
    """The error of int8 without images."""
    return MusiqError(
        "int8 needs real images to calibrate on, generated ones are not good enough: give --calibration-images DIR with "
        f"{ENOUGH} to {MOST} images like those to be scored."
    )


def in_batches(request: Request, images: Images) -> Iterator[Images]:
    """One image at a time, or as few as the graph of `request` takes."""
    size = max(1, request.batch.smallest)
    return (images[start : start + size] for start in range(0, len(images), size))
