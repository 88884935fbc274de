"""The calibration of int8: real images are read, and the ranges that activations reach on them computed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from musiq.artifact import CalibrationFiles
from musiq.errors import ImageError, MusiqError
from musiq.images.find import evenly, find_images
from musiq.terminal import progress_bar

from ..check.images import fitted
from ..request import CalibrationImages, Images, Int8Options, Request, feed
from .layer_groups import BETWEEN, PRODUCTS

if TYPE_CHECKING:
    import onnx

# Fewer than 16 leave no part to measure on; from 64 on, the ranges that the activations reach hardly grow; beyond 512 only
# the time does.
FEWEST, ENOUGH, MOST = 16, 64, 512
HELD_OUT = 24  # at most so many for the sensitivity pass, which scores them once for every group of layers


def read(
    folder: Path, height: int | None, width: int | None, warn: Callable[[str], None], resize: str = ""
) -> CalibrationImages:
    """Up to 512 images of a folder, evenly spread over its sorted files; broken ones are passed over.

    Args:
        folder: Read with all folders below it.
        height: Of the model's images, which these are fitted to, in pixels; None, as the width, for any (`images.fitted`).
        width: The same.
        warn: Called with a sentence where there are fewer than 64.
        resize: The Spec's policy.

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
                images.append(fitted(file, height, width, resize))
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
    return CalibrationImages(tuple(names), images)


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


def in_batches(request: Request, images: Sequence[Images]) -> Iterator[Sequence[Images]]:
    """One image at a time, or as few as the graph of `request` takes, where they follow each other in one size."""
    size, start = max(1, request.batch.smallest), 0
    while start < len(images):
        end = start + 1
        while end < min(start + size, len(images)) and images[end].shape == images[start].shape:
            end += 1
        yield images[start:end]
        start = end


def activation_ranges(request: Request, plain: onnx.ModelProto, images: Sequence[Images], symmetric: bool) -> Any:
    """Calibrate: the least and largest value that each activation takes on the images.

    Args:
        request: Says how `plain` is fed.
        plain: The fp32 graph.
        images: N of uint8 (height, width, 3), those that set the ranges (`split`).
        symmetric: Whether ranges lie around 0.

    Returns:
        ONNX Runtime's `TensorsData`, by the names of tensors, as its quantiser takes it.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    with tempfile.TemporaryDirectory() as folder:
        source, augmented = Path(folder) / "plain.onnx", Path(folder) / "augmented.onnx"
        onnx.save_model(plain, str(source))
        calibrator = create_calibrator(
            source,
            [*PRODUCTS, *BETWEEN],
            augmented_model_path=str(augmented),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"symmetric": symmetric},
        )
        for given in inputs_of(request, plain, images, "calibrating"):
            calibrator.collect_data(_Reader(given))
        return calibrator.compute_data()


def inputs_of(
    request: Request, model: onnx.ModelProto, images: Sequence[Images], what: str
) -> Iterator[dict[str, Any]]:
    """What `model` is given for each batch of `images`, by the names of its inputs; `what` is the progress bar's."""
    taken, names = feed(request), [entry.name for entry in model.graph.input]
    given: list[dict[str, Any]] = []

    def take(arrays: list[Any]) -> list[Any]:
        given.append(dict(zip(names, arrays, strict=True)))
        return [np.zeros(len(arrays[0]), np.float32)]

    with progress_bar(what, len(images)) as bar:
        for batch in in_batches(request, images):
            taken.run(batch, take)
            yield from given
            given.clear()
            bar.advance(len(batch))


class _Reader:
    """One batch, in the shape that a calibrator reads."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self._left = [batch]

    def get_next(self) -> dict[str, Any] | None:
        return self._left.pop() if self._left else None
