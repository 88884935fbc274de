"""The images of each call of a measuring process: of the one size that its model takes, or a mixture at their own sizes."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..plan.job import DecodedFiles

if TYPE_CHECKING:
    from musiq.runtimes.base import Images, Runtime

T = TypeVar("T")


class DecodedImages:
    """The images that every model of one size gets, decoded once by the parent into a file of raw bytes."""

    def __init__(self, decoded: DecodedFiles, height: int, width: int) -> None:
        self.files = [Path(file) for file in decoded.files]
        self.raw, self.shape = decoded.raw, (height, width, 3)

    def decoded(self, index: int, count: int) -> Images:
        """`count` images from `index` on, uint8 (count, H, W, 3), beginning anew where they end.

        Read, not mapped: mapped pages would count as this model's memory.
        """
        size = int(np.prod(self.shape))
        batch = np.empty((count, *self.shape), np.uint8)
        with open(self.raw, "rb") as file:
            for row, place in enumerate(self.places(index, count)):
                file.seek(place * size)
                file.readinto(batch[row].data)
        return batch

    def places(self, index: int, count: int) -> list[int]:
        """Which of the images those `count` from `index` on are."""
        return [(index + row) % len(self.files) for row in range(count)]

    def from_files(self, index: int, count: int) -> Images:
        """The same images, but read, decoded and fitted now."""
        from musiq.images.decode import prepare

        wanted = [self.files[place] for place in self.places(index, count)]
        return np.stack([prepare(file, self.shape[0], self.shape[1])[0] for file in wanted])

    def one_pass(self, batch: int) -> int:
        """The images of the calls that together have all."""
        return len(self.files)


class MixedImages:
    """The images that a model of any size gets, at their own sizes: the same methods as `DecodedImages`, for calls of
    `batch` images that may share one. A call for which there are fewer has some of them twice.

    The calls come so that each stretch of them has small and large images as all have: a round need not time all.
    """

    def __init__(self, decoded: DecodedFiles, runtime: Runtime, resize: str, batch: int) -> None:
        from musiq.images.fit import Resize
        from musiq.scoring.plan import Planner

        self.files = [Path(file) for file in decoded.files]
        self.raw, self.resize, self.batch = decoded.raw, resize, batch
        self.sizes = [(height, width) for height, width in decoded.sizes or ()]
        self._ends = np.cumsum([3 * height * width for height, width in self.sizes])
        plan = Planner([runtime], Resize(), sys.maxsize)
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, size in enumerate(self.sizes):
            groups.setdefault(plan(*size).shares if batch > 1 else (place,), []).append(place)
        calls = [group[start : start + batch] for group in groups.values() for start in range(0, len(group), batch)]
        self._calls = spread(sorted(calls, key=lambda call: math.prod(self.sizes[call[0]])))

    def places(self, index: int, count: int) -> list[int]:
        """Which images those `count` from `index` on are, both multiples of the batch."""
        call = self._calls[index // self.batch % len(self._calls)]
        return [call[row % len(call)] for row in range(count)]

    def decoded(self, index: int, count: int) -> Images | list[Images]:
        """The images of a call, uint8 (count, H, W, 3), or where they differ in size a list."""
        images = []
        with open(self.raw, "rb") as file:
            for place in self.places(index, count):
                image = np.empty((*self.sizes[place], 3), np.uint8)
                file.seek(self._ends[place] - image.nbytes)
                file.readinto(image.data)
                images.append(image)
        return in_one_piece(images)

    def from_files(self, index: int, count: int) -> Images | list[Images]:
        """The same images, but read, decoded and resized now."""
        from musiq.images.decode import prepare

        wanted = [self.files[place] for place in self.places(index, count)]
        return in_one_piece([prepare(file, resize=self.resize)[0] for file in wanted])

    def one_pass(self, batch: int) -> int:
        return len(self._calls) * batch


def in_one_piece(images: list[Images]) -> Images | list[Images]:
    if len(images) == 1:
        return images[0][None]  # large ones are not copied
    return images if len({image.shape for image in images}) > 1 else np.stack(images)


def spread(items: list[T]) -> list[T]:
    """The items in an order in which each stretch comes evenly out of all of them, as multiples of the golden ratio lie
    evenly on a circle."""
    order = sorted(range(len(items)), key=lambda place: place * (math.sqrt(5) - 1) / 2 % 1)
    return [items[place] for place in order]


CallImages = DecodedImages | MixedImages
